"""Hidden states that were `torch.save`d: a tuple as transformers returns it, or a dictionary with token ids beside it.

Read with `weights_only`, so that a file cannot run code; an object of another class is refused by torch.
"""

import pickle
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import NotFoundError, Problem
from steercache.exchange.activations.captured import (
    Captured,
    CapturedSample,
    Request,
    Requests,
    ids_of,
    natural_key,
    token_first,
)
from steercache.exchange.activations.folders import STATES, TOKENS
from steercache.exchange.activations.tensor_files import stored_dtype
from steercache.runs.shard import as_numpy

_NUMBERED = re.compile(r".*?([0-9]{1,4})")


def read_torch(path: Path, requests: Requests) -> Captured:
    """A `.pt` file or a folder of them: a dictionary with `hidden_states` and `input_ids`, a list of such, or states alone.

    States are a tuple of (b, t, d) or (t, d), as `output_hidden_states` gives them, a dictionary by block, or one tensor.
    Raises NotFoundError when there is no such file.
    """
    files = [path] if path.is_file() else [*path.glob("*.pt"), *path.glob("*.pth")]
    if not files:
        raise NotFoundError("no .pt file", place=str(path), hint="the file or folder that torch.save wrote")
    samples: list[CapturedSample] = []
    problems: list[Problem] = []
    numbers: set[tuple[int, ...]] = set()
    for file in sorted(files, key=lambda p: natural_key(p.stem)):
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
            for one in loaded if _is_list_of_batches(loaded) else [loaded]:
                found, entries = _batch(file, one, requests, n_before=0 if one is loaded else len(samples))
                samples += found
                numbers |= {entries} if entries else set()
        except (OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            problems.append(Problem(loc=file.stem, kind="unreadable", message=message, file=str(file)))
    return Captured(
        format="torch",
        samples=tuple(samples),
        entries=next(iter(numbers)) if len(numbers) == 1 else None,
        problems=tuple(problems),
    )


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_list_of_batches(loaded: Any) -> bool:
    return isinstance(loaded, list | tuple) and bool(loaded) and all(isinstance(one, Mapping) for one in loaded)


def _batch(
    path: Path, loaded: Any, requests: Requests, *, n_before: int
) -> tuple[list[CapturedSample], tuple[int, ...] | None]:
    """The samples of one dictionary or tuple, and the numbers of its entries where it is keyed by them."""
    fields: Mapping[Any, Any] = loaded if isinstance(loaded, Mapping) else {"hidden_states": loaded}
    named = next((name for name in STATES if name in fields), None)
    states, entries = (fields[named], None) if named else _by_number(fields)
    if isinstance(states, Mapping):
        states, entries = _by_number(states)
    stack = [states] if isinstance(states, torch.Tensor) else list(states)
    if not stack or not all(isinstance(one, torch.Tensor) and one.is_floating_point() for one in stack):
        raise ValueError("no tuple, dictionary or tensor of hidden states")
    ids = next((fields[name] for name in TOKENS if name in fields), None)
    mask = fields.get("attention_mask")
    if len(stack) > 1 and stack[0].ndim == 3:  # (b, t, d) per entry
        parts = [_sequence(stack, i) for i in range(len(stack[0]))]
    elif len(stack) == 1 and stack[0].ndim == 4:  # (e, b, t, d)
        parts = [[stack[0][:, i]] for i in range(stack[0].shape[1])]
    else:
        parts = [stack]
    made = []
    for i, part in enumerate(parts):
        number = n_before + i
        key = path.stem if len(parts) == 1 and not n_before else f"{path.stem}-{number}"
        made.append(_sample(key, path, part, _row(ids, i), _row(mask, i), requests.get(key)))
    return made, entries


def _sequence(stack: Sequence[torch.Tensor], i: int) -> list[torch.Tensor]:
    return [one[i] for one in stack]


def _by_number(fields: Mapping[Any, Any]) -> tuple[list[Any], tuple[int, ...]]:
    """The tensors of a dictionary whose keys end in a number (3, "layer_3", "model.layers.3"), ascending."""
    numbered = {int(m[1]): value for key, value in fields.items() if (m := _NUMBERED.fullmatch(str(key)))}
    if not numbered:
        raise ValueError(f"keys {', '.join(map(str, fields))[:200]}: none is called {' or '.join(STATES)}")
    order = sorted(numbered)
    return [numbered[n] for n in order], tuple(order)


def _row(values: Any, i: int) -> npt.NDArray[Any] | None:
    if values is None:
        return None
    array = np.asarray(values.numpy() if isinstance(values, torch.Tensor) else values)
    found: npt.NDArray[Any] = array[i] if array.ndim == 2 else array
    return found


def _sample(
    key: str,
    path: Path,
    part: Sequence[torch.Tensor],
    ids: npt.NDArray[Any] | None,
    mask: npt.NDArray[Any] | None,
    asked: Request | None,
) -> CapturedSample:
    token_ids = ids_of(ids) if ids is not None else None if asked is None else asked.token_ids
    kept = slice(None)
    if mask is not None and token_ids is not None and len(mask) == len(token_ids):
        kept = _inside(mask)
    read = partial(_read, tuple(part), -1 if token_ids is None else len(token_ids), kept)
    n_rows, n_entries, width = read().shape
    flat = part[0].reshape(-1)
    return CapturedSample(
        key=key,
        place=str(path),
        token_ids=None if token_ids is None else token_ids[kept],
        n_rows=n_rows,
        n_entries=n_entries,
        width=width,
        dtype=stored_dtype(as_numpy(part[0][:1]).dtype),
        probe=as_numpy(flat[:64]).tobytes() + as_numpy(flat[-64:]).tobytes(),
        read=read,
        text=None if asked is None else asked.text,
    )


def _inside(mask: npt.NDArray[Any]) -> slice:
    """The tokens that are no padding, left or right. Raises ValueError when they are not consecutive."""
    at = np.flatnonzero(mask)
    if not len(at) or int(at[-1] - at[0]) != len(at) - 1:
        raise ValueError("its attention mask has gaps, or leaves nothing")
    return slice(int(at[0]), int(at[-1]) + 1)


def _read(part: tuple[torch.Tensor, ...], n_tokens: int, kept: slice) -> npt.NDArray[Any]:
    if len(part) > 1:  # one (t, d) per entry
        if len({tuple(one.shape) for one in part}) != 1 or part[0].ndim != 2:
            raise ValueError(f"entries of shapes {', '.join(sorted({str(tuple(one.shape)) for one in part}))[:200]}")
        values = np.stack([as_numpy(one) for one in part], axis=1)
    else:
        values = token_first(as_numpy(part[0]), n_tokens if n_tokens >= 0 else part[0].shape[0])
    return values[kept] if values.shape[0] == n_tokens else values
