"""A small run of the width of the SAE folders, with random rows, some of them massive, zero or not finite."""

from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tests.index.small import Sentence, span
from tests.queries.small_cache import add_run
from tests.sae.folders import D_IN

WORDS = "one two three four five six seven eight nine ten eleven twelve"
N_SHARDS, PER_SHARD = 4, 48


def values(rows: npt.NDArray[np.int64], layer: int) -> npt.NDArray[np.float32]:
    """Random, the same for the same row and layer; first positions are massive."""
    drawn = [np.random.default_rng([int(row), layer]).standard_normal(D_IN) for row in rows]
    out = np.asarray(drawn, dtype=np.float32)
    out[rows % 12 == 0] *= 100
    out[rows == 5] = 0
    return out


def damaged_values(rows: npt.NDArray[np.int64], layer: int) -> npt.NDArray[np.float32]:
    """The same with two rows that are not finite."""
    out = values(rows, layer)
    out[rows == 7, 3] = np.inf
    out[rows == 66, 0] = np.nan
    return out


def write_run(root: Path, name: str = "text", *, dtype: str = "float32", finite: bool = True) -> str:
    """Four shards of four sentences of twelve words, one of them an anchor; returns the run's id."""
    make = values if finite else damaged_values
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    labels = {"concept": "counting", "anchors": [span(WORDS, "three")]}
    shards = [[Sentence(text=WORDS, labels=labels) for _ in range(PER_SHARD // 12)] for _ in range(N_SHARDS)]
    return add_run(
        root, name, shards, width=D_IN, dtype=dtype, values=lambda rows, layer: make(rows, layer).astype(kind)
    )
