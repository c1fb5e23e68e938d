"""What proving a derived family adds to loading: the 135 M model, taken as if its type were not in the table."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from steercache.models.derive import family_of_model
from steercache.models.proof import prove
from steercache.zoo.smollm2 import load_smollm2

TARGET_S: Final = 2.0
REPEATS: Final = 3


def run() -> Iterator[dict[str, Any]]:
    """Rows: seconds of a proof on top of loading, the quickest of several, for each dtype."""
    for dtype in (torch.float32, torch.bfloat16):
        model = load_smollm2(dtype=dtype)
        family = family_of_model(model)
        value = min(_timed(lambda model=model, family=family: prove(model, family)) for _ in range(REPEATS))  # type: ignore[misc]
        yield {
            "name": f"proof of a derived family, 135 M, {str(dtype).removeprefix('torch.')}",
            "value_s": value,
            "target": f"< {TARGET_S:g} s",
            "met": value < TARGET_S,
        }


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
