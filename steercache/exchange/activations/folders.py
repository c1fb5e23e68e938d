"""Folders with one safetensors file per request: vLLM's `extract_hidden_states`, `speculators`, and any like them.

vLLM (vllm/distributed/kv_transfer/kv_connector/v1/example_hidden_states_connector.py at vllm-project/vllm@015a95c8) writes
`<request id>.safetensors` with `hidden_states` (tokens, entries, width) and `token_ids` (tokens), and a `.lock` file beside it.
The entries are those of `eagle_aux_hidden_state_layer_ids`, which the file does not hold: id k is what enters block k, so the
output of block k - 1; the last is before the final norm. `speculators` (vllm-project/speculators@c05b95b3,
scripts/data_generation_offline.py) moves such files to `hidden_states/hs_<index>.safetensors` beside its prepared data set.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import NotFoundError, Problem
from steercache.exchange.activations.arrow import id_lists
from steercache.exchange.activations.captured import (
    Captured,
    CapturedSample,
    Requests,
    ids_of,
    natural_key,
    token_first,
)
from steercache.exchange.activations.tensor_files import FileTensor, stored_dtype, tensors_of

SUFFIX = ".safetensors"
STATES = ("hidden_states", "residual_stream", "activations")
TOKENS = ("token_ids", "input_ids")
_NUMBERED = re.compile(r"hs_([0-9]{1,15})")


def read_vllm(folder: Path, requests: Requests) -> Captured:
    """A folder that vLLM's connector wrote. Raises NotFoundError when it holds no such file."""
    samples, problems = _samples(_files(folder), requests)
    written = {path.stem for path in _files(folder)}
    locks = [p.name.removesuffix(f"{SUFFIX}.lock") for p in sorted(folder.glob(f"*{SUFFIX}.lock"))]
    problems += [
        _missing(key, "a lock file and no states: its write never ended") for key in locks if key not in written
    ]
    return Captured(format="vllm", samples=samples, numbering="states", last="block", problems=tuple(problems))


def read_speculators(folder: Path, requests: Requests) -> Captured:
    """A folder of `speculators`: of its `hs_<index>` files, or the prepared data set with `hidden_states/` in it."""
    inner = folder / "hidden_states"
    folder = inner if inner.is_dir() else folder
    numbered = {int(m[1]): path for path in _files(folder) if (m := _NUMBERED.fullmatch(path.stem))}
    samples, problems = _samples([numbered[i] for i in sorted(numbered)], requests)
    prepared = id_lists(folder.parent)
    n_expected = len(prepared) if prepared else max(numbered, default=-1) + 1
    problems += [_missing(f"hs_{i}", "no file of this index") for i in range(n_expected) if i not in numbered]
    for sample in samples if prepared else ():
        at, ids = int(sample.key.removeprefix("hs_")), sample.token_ids
        if ids is not None and at < len(prepared) and not np.array_equal(ids, prepared[at]):
            problems.append(Problem(loc=sample.key, kind="tokens", message="other token ids than the prepared data"))
    return Captured(
        format="speculators", samples=tuple(samples), numbering="states", last="block", problems=tuple(problems)
    )


def read_safetensors(folder: Path, requests: Requests) -> Captured:
    """Any folder with one safetensors file per sample: states under a usual name or as the only tensor of 2 or 3 axes."""
    samples, problems = _samples(_files(folder), requests)
    return Captured(format="safetensors", samples=samples, problems=tuple(problems))


def read_npy(folder: Path, requests: Requests) -> Captured:
    """A folder with one `.npy` file per sample, whose token ids the list of requests has."""
    paths = sorted(folder.glob("*.npy"), key=lambda p: natural_key(p.stem))
    if not paths:
        raise NotFoundError("no .npy file", place=str(folder), hint="the folder with the files of the activations")
    samples, problems = _each(paths, requests, _npy_sample)
    return Captured(format="npy", samples=samples, problems=tuple(problems))


def _files(folder: Path) -> list[Path]:
    paths = [p for p in folder.glob(f"*{SUFFIX}") if p.is_file() and not p.name.startswith(".")]
    if not paths:
        raise NotFoundError(f"no {SUFFIX} file", place=str(folder), hint="the folder that the engine wrote them into")
    return sorted(paths, key=lambda p: natural_key(p.stem))


def _samples(paths: Sequence[Path], requests: Requests) -> tuple[tuple[CapturedSample, ...], list[Problem]]:
    return _each(paths, requests, _safetensors_sample)


def _each(
    paths: Sequence[Path], requests: Requests, read: Callable[[Path, Requests], CapturedSample]
) -> tuple[tuple[CapturedSample, ...], list[Problem]]:
    samples, problems = [], []
    for path in paths:
        try:
            samples.append(read(path, requests))
        except (OSError, ValueError) as error:
            problems.append(Problem(loc=path.stem, kind="unreadable", message=str(error), file=str(path)))
    return tuple(samples), problems


def _safetensors_sample(path: Path, requests: Requests) -> CapturedSample:
    tensors = tensors_of(path)
    states = _states(tensors)
    named = next((tensors[name] for name in TOKENS if name in tensors), None)
    asked = requests.get(path.stem)
    ids = ids_of(named.read()) if named is not None else None if asked is None else asked.token_ids
    return _sample(path, ids, states.shape, stored_dtype(states.dtype), states.ends(), states.read, requests)


def _states(tensors: dict[str, FileTensor]) -> FileTensor:
    for name in STATES:
        if name in tensors:
            return tensors[name]
    candidates = [t for name, t in tensors.items() if name not in TOKENS and len(t.shape) in (2, 3)]
    if len(candidates) != 1:
        raise ValueError(f"tensors {', '.join(sorted(tensors))[:200]}: none is called {' or '.join(STATES)}")
    return candidates[0]


def _npy_sample(path: Path, requests: Requests) -> CapturedSample:
    with path.open("rb") as file:
        values: npt.NDArray[Any] = np.load(file, mmap_mode=None, allow_pickle=False)
    asked = requests.get(path.stem)
    ids = None if asked is None else asked.token_ids
    flat = values.reshape(-1)
    probe = flat[:64].tobytes() + flat[-64:].tobytes()

    def read() -> npt.NDArray[Any]:
        with path.open("rb") as file:
            loaded: npt.NDArray[Any] = np.load(file, allow_pickle=False)
        return loaded

    return _sample(path, ids, values.shape, stored_dtype(values.dtype), probe, read, requests)


def _sample(
    path: Path,
    ids: npt.NDArray[np.int32] | None,
    shape: tuple[int, ...],
    dtype: Any,
    probe: bytes,
    read: Callable[[], npt.NDArray[Any]],
    requests: Requests,
) -> CapturedSample:
    """A sample of a file that has nothing else in it; three axes are (tokens, entries, width) unless the ids say otherwise."""
    if len(shape) not in (2, 3):
        raise ValueError(f"shape {shape}: (tokens, width), (tokens, entries, width) or (entries, tokens, width)")
    swapped = len(shape) == 3 and ids is not None and shape[0] != len(ids) and shape[1] == len(ids)
    n_rows, n_entries = (shape[0], 1) if len(shape) == 2 else (shape[1], shape[0]) if swapped else (shape[0], shape[1])
    asked = requests.get(path.stem)
    return CapturedSample(
        key=path.stem,
        place=str(path),
        token_ids=ids,
        n_rows=n_rows,
        n_entries=n_entries,
        width=shape[-1],
        dtype=dtype,
        probe=probe,
        read=lambda: token_first(read(), n_rows) if not (len(shape) == 3 and not swapped) else read(),
        text=None if asked is None else asked.text,
    )


def _missing(key: str, why: str) -> Problem:
    return Problem(loc=key, kind="missing", message=why)
