"""What the readers of other tools' files hand over: samples with token ids, and how to read their hidden states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from steercache.core.errors import Problem
from steercache.core.examples import IntArray
from steercache.core.layout import DType

Numbering = Literal["states", "blocks"]
"""How entries are counted. states: 0 is the embedding, k the output of block k - 1 (transformers' `hidden_states`, vLLM).
blocks: k is the output of block k."""
LastEntry = Literal["block", "norm"]
"""What an entry of the last block is: that block's output, or the output of the final norm behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that was sent to the engine, as a list of requests names it."""

    key: str
    token_ids: IntArray | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedSample:
    """One request with its hidden states, which `read` returns as (n_rows, n_entries, width), a view where it can be one.

    `token_ids` has shape (t,), which need not be `n_rows`: the checks compare them. `probe` are some bytes of the values, part
    of a run's identity.
    """

    key: str
    place: str
    token_ids: IntArray | None
    n_rows: int
    n_entries: int
    width: int
    dtype: DType
    probe: bytes = field(repr=False)
    read: Callable[[], npt.NDArray[Any]] = field(repr=False, compare=False)
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A folder or file of captured hidden states. `numbering`, `last` and `entries` are what its format or its files say;
    None where they say nothing. `problems` are files that could not be read, and requests that are missing."""

    format: str
    samples: tuple[CapturedSample, ...]
    numbering: Numbering | None = None
    last: LastEntry | None = None
    entries: tuple[int, ...] | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


Requests = Mapping[str, Request]
Reader = Callable[[Path, Requests], Captured]


def token_first(values: npt.NDArray[Any], n_tokens: int) -> npt.NDArray[Any]:
    """Hidden states as (rows, entries, width): of (t, d) one entry, of (t, e, d) or (e, t, d) by which axis has `n_tokens`.

    Raises:
        ValueError: neither axis has so many, or both have and the order cannot be told.
    """
    if values.ndim == 2:
        return values[:, None, :]
    if values.ndim != 3:
        raise ValueError(f"shape {values.shape}: (tokens, width), (tokens, entries, width) or (entries, tokens, width)")
    fits = [axis for axis in (0, 1) if values.shape[axis] == n_tokens]
    if len(fits) == 2:
        raise ValueError(f"shape {values.shape}: tokens and entries are equally many, their order cannot be told")
    if not fits:
        raise ValueError(f"shape {values.shape} for {n_tokens} token ids: no axis has so many rows")
    return values if fits == [0] else values.transpose(1, 0, 2)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sort key under which `hs_10` follows `hs_9`.

    >>> sorted(["hs_10", "hs_9", "a"], key=natural_key)
    ['a', 'hs_9', 'hs_10']
    """
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for char in f"{name}\0":
        if char.isascii() and char.isdigit() and len(digits) < 18:
            digits += char
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, char))
    return parts


def ids_of(values: Any) -> IntArray:
    """Token ids (t,) as int32. Raises ValueError for what are none."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError("token ids are a flat list of integers")
    if array.size and (int(array.min()) < 0 or int(array.max()) >= 2**31):
        raise ValueError("token ids are whole numbers from 0 on")
    return array.astype(np.int32)
