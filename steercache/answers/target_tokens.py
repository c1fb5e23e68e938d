"""Which tokens targets written as SQL selected, question by question, as they were steered: kept beside the cells.

One file per target, model and tokenizer at `targets/<digest>.json`; what is there stays, new questions are added.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.cache.handle import CacheFolder
from steercache.cache.lock_wait import hold_folder
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.examples import EncodedSample
from steercache.core.ids import SHORT_ID, canonical_json, digest
from steercache.index.clause import is_clause
from steercache.models.spec import ModelSpec
from steercache.store.durable import make_folder, read_bytes, write_file_atomically


class TargetTokens:
    """What was selected while answers were computed, by target and sample id."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, dict[str, Any]]] = {}

    def add(self, target: str, samples: Sequence[EncodedSample], weights_bt: npt.NDArray[Any]) -> None:
        """The weights (b, t) of a batch that is padded on the left; what is known of a sample stays."""
        known = self._found.setdefault(target, {})
        for row, sample in zip(weights_bt, samples, strict=True):
            if sample.sample_id not in known:
                known[sample.sample_id] = _as_ranges(row[len(row) - sample.n_tokens :])

    def keep(self, cache: CacheFolder, spec: ModelSpec) -> None:
        """Write what is new into the cache."""
        for text, found in self._found.items():
            path = _path(cache, _identity(spec, text))
            make_folder(path.parent)
            with hold_folder(path.parent):
                known = _read(path) if path.exists() else {}
                if found.keys() <= known.keys():
                    continue
                document = _identity(spec, text) | {"model": spec.name, "samples": {**found, **known}}
                write_file_atomically(path, canonical_json(document) + b"\n")


def selected_tokens(cache: CacheFolder, spec: ModelSpec, target: str) -> dict[str, npt.NDArray[np.float32]]:
    """Weights of the tokens that a target selected, (t,) up to the last one, by sample id; empty where it never ran.

    Raises:
        DamagedError: the file cannot be read.
    """
    return _weights(_path(cache, _identity(spec, target)))


def selected_in_cell(cache: CacheFolder, cell_id: str) -> dict[str, npt.NDArray[np.float32]]:
    """As `selected_tokens`, of the target of a stored cell; empty for a target by name. Of several vectors together, of the one
    target that is SQL.

    Raises:
        NotFoundError: the cache has no such cell. UsageError: parts of it have different targets that are SQL.
        DamagedError: the file cannot be read.
    """
    with cache.connection() as con:
        found = con.execute(_CELL, [cell_id]).fetchall()
    if not found:
        raise NotFoundError(f"no cell {cell_id[:SHORT_ID]}", hint="the column cell_id of the table cells has them")
    by_target = {row[3]: row for row in found if is_clause(row[3])}
    if len(by_target) > 1:
        raise UsageError(
            f"parts of the cell {cell_id[:SHORT_ID]} have {len(by_target)} targets that are SQL",
            hint="run a part alone (`interference: true` of a combination), and ask for that cell",
        )
    names = ("fingerprint", "dtype", "tokenizer", "target")
    row = next(iter(by_target.values()), found[0])
    return _weights(_path(cache, dict(zip(names, row, strict=True))))


_CELL = """
SELECT DISTINCT c.model_fingerprint, c.decoding->>'dtype', c.preprocessing, coalesce(p.target, c.target)
FROM cells c
LEFT JOIN cell_parts p USING (sweep_id, cell_id)
WHERE c.cell_id = ?
"""


def _weights(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    found = {}
    for sample_id, one in (_read(path) if path.exists() else {}).items():
        weights = np.zeros(max((stop for _, stop in one["ranges"]), default=0), dtype=np.float32)
        for start, stop in one["ranges"]:
            weights[start:stop] = 1
        if "weights" in one:
            weights[weights != 0] = one["weights"]
        found[sample_id] = weights
    return found


def _as_ranges(weights: npt.NDArray[Any]) -> dict[str, Any]:
    """Half-open ranges of positions, and the weights one after another where they are not all 1."""
    hit = weights != 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hit, [False]]).astype(np.int8)))
    found: dict[str, Any] = {"ranges": edges.reshape(-1, 2).tolist()}
    if weights.dtype != bool and (weights[hit] != 1).any():
        found["weights"] = [float(x) for x in weights[hit]]
    return found


def _identity(spec: ModelSpec, target: str) -> dict[str, Any]:
    return {
        "fingerprint": spec.fingerprint,
        "dtype": spec.dtype,
        "tokenizer": spec.tokenizer_digest,
        "target": target,
    }


def _path(cache: CacheFolder, identity: Mapping[str, Any]) -> Path:
    return cache.paths.targets / f"{digest(identity)}.json"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        samples = json.loads(read_bytes(path))["samples"]
        if not isinstance(samples, dict):
            raise TypeError("samples is no mapping")
        return samples
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"not the tokens of a target: {error}", place=str(path), hint="delete it: it is written again"
        ) from error
