"""What a file of another tool holds, and what its format says about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.vector_use import VectorUse

Norm = Literal["keep", "unit"]  # the numbers as they are, or brought to unit length
MAX_FILE_BYTES: Final = 1 << 30
MAX_LAYERS: Final = 10_000
MAX_WIDTH: Final = 1 << 20
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldVector:
    """Directions by the layer numbers of the file, each of shape (d,), and what the format says; None where it does not.

    Block = number + `layer_offset`; not `numbered`, the numbers are the places in the file. `header` is ours, in a file that
    steercache wrote.
    """

    values: Mapping[int, npt.NDArray[np.float32]]
    numbered: bool = True
    header: Mapping[str, Any] | None = None
    layer_offset: int | None = None
    site: str | None = None
    norm: Norm | None = None
    use: VectorUse | None = None
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


def refused(path: Path, why: str, hint: str | None = None) -> UsageError:
    """The error for a file that is not taken in."""
    return UsageError(why, place=str(path), hint=hint)


def read_limited(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    """The whole file. Raises UsageError for one that is not there, may not be read, or is too large for vectors."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes > limit:
            raise refused(path, f"has {n_bytes:,} bytes, and files of vectors are read up to {limit:,}")
        return path.read_bytes()
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror}") from error


def checked_values(path: Path, values: Mapping[int, Any]) -> dict[int, npt.NDArray[np.float32]]:
    """The directions as float32 of shape (d,), all of one width, finite.

    Raises:
        UsageError: names every direction that is not such a one.
    """
    if not values:
        raise refused(path, "holds no direction")
    if len(values) > MAX_LAYERS:
        raise refused(path, f"holds {len(values):,} directions; no model has as many layers")
    problems, found = [], {}
    for layer, value in sorted(values.items()):
        array = np.asarray(value)
        if array.ndim == 2 and 1 in array.shape:
            array = array.reshape(-1)
        if array.ndim != 1 or not 0 < array.size <= MAX_WIDTH:
            problems.append(f"layer {layer} has shape {array.shape}, not (hidden size,)")
            continue
        if array.dtype.kind not in "f" and array.dtype.name != "bfloat16":
            problems.append(f"layer {layer} is {array.dtype}, not floating-point")
            continue
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float32)
        if not np.isfinite(narrow).all():
            problems.append(f"layer {layer} has values that are not finite in float32")
        found[int(layer)] = narrow
    widths = sorted({len(one) for one in found.values()})
    if len(widths) > 1:
        problems.append(f"widths differ: {', '.join(map(str, widths[:_SHOWN]))}")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        hint = "the file is not what was computed, or the computation failed: write it again from finite values of one width"
        raise refused(path, "; ".join(problems[:_SHOWN]) + more, hint)
    return found
