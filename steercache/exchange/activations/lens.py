"""Responses of a vLLM server with vllm-lens: JSON with base64 tensors of the residual stream.

vllm-lens (vllm_lens/_helpers/_serialize.py at UKGovernmentBEIS/vllm-lens@7d252f7d): `activations` of a response has
`residual_stream` as {data: base64 of zstd, dtype: int16 for bfloat16, original_dtype, shape: [layers, positions, width]}. The
layers are those of `output_residual_stream`, ascending, each the output of that block (with the residual added). The last
generated token was never an input, so it has no row. Pickled hook results beside it are not read.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steercache.core.errors import NotFoundError, Problem
from steercache.core.examples import IntArray
from steercache.exchange.activations.captured import Captured, CapturedSample, Requests, ids_of, natural_key
from steercache.exchange.activations.tensor_files import stored_dtype

_DTYPES: dict[str, Any] = {"torch.bfloat16": ml_dtypes.bfloat16, "torch.float16": "<f2", "torch.float32": "<f4"}


def read_vllm_lens(path: Path, requests: Requests) -> Captured:
    """A `.json` or `.jsonl` file of responses, or a folder of them. Raises NotFoundError when there is none."""
    files = [path] if path.is_file() else [p for p in path.glob("*.json*") if p.suffix in (".json", ".jsonl")]
    if not files:
        raise NotFoundError("no .json or .jsonl file", place=str(path), hint="the responses of the server, one a line")
    samples: list[CapturedSample] = []
    problems: list[Problem] = []
    for file in sorted(files, key=lambda p: natural_key(p.stem)):
        for number, (offset, response) in enumerate(_responses(file)):
            key = str(response.get("id") or f"{file.stem}-{number}") if isinstance(response, dict) else str(number)
            try:
                samples.append(_sample(key, file, offset, response, requests))
            except (KeyError, TypeError, ValueError, binascii.Error) as error:
                problems.append(Problem(loc=key, kind="unreadable", message=f"{error}", file=str(file)))
    return Captured(
        format="vllm-lens", samples=tuple(samples), numbering="blocks", last="block", problems=tuple(problems)
    )


def _responses(path: Path) -> Iterator[tuple[int, Any]]:
    """(where its line begins, response) of each; a file with one document has it at 0."""
    if path.suffix == ".json":
        document = _loaded(path.read_bytes())
        for i, one in enumerate(document if isinstance(document, list) else [document]):
            yield -1 - i, one
        return
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield offset, _loaded(line)
            offset += len(line)


def _loaded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _sample(key: str, path: Path, offset: int, response: Any, requests: Requests) -> CapturedSample:
    if not isinstance(response, dict):
        raise ValueError("not a JSON object")
    said = response["activations"]["residual_stream"]
    shape = tuple(int(n) for n in said["shape"])
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape {shape}; (layers, positions, width) was expected")
    dtype = np.dtype(_DTYPES[said.get("original_dtype", "torch.float32")])
    asked = requests.get(key)
    return CapturedSample(
        key=key,
        place=str(path),
        token_ids=_ids(response, shape[1]) if asked is None or asked.token_ids is None else asked.token_ids,
        n_rows=shape[1],
        n_entries=shape[0],
        width=shape[2],
        dtype=stored_dtype(dtype),
        probe=str(said["data"])[:256].encode() + str(said["data"])[-256:].encode(),
        read=partial(_read, path, offset, shape, dtype),
        text=None if asked is None else asked.text,
    )


def _ids(response: dict[str, Any], n_rows: int) -> IntArray | None:
    """Prompt and generated tokens where the response has them (`return_token_ids`); the last generated one has no row."""
    choice = (response.get("choices") or [{}])[0]
    prompt = choice.get("prompt_token_ids") or response.get("prompt_token_ids")
    if prompt is None:
        return None
    both = [*prompt, *(choice.get("token_ids") or response.get("token_ids") or ())]
    return ids_of(prompt if len(prompt) == n_rows else both[:-1] if len(both) > len(prompt) else prompt)


def _read(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if offset < 0:
        document = json.loads(path.read_bytes())
        response = document[-1 - offset] if isinstance(document, list) else document
    else:
        with path.open("rb") as file:
            file.seek(offset)
            response = json.loads(file.readline())
    said = response["activations"]["residual_stream"]
    raw: Any = base64.b64decode(said["data"], validate=True)
    if said.get("compression") == "zstd":  # its size is known from the shape: a bomb does not unfold
        raw = pa.decompress(raw, decompressed_size=prod(shape) * dtype.itemsize, codec="zstd", asbytes=True)
    if len(raw) != prod(shape) * dtype.itemsize:
        if said.get("compression") == "zstd" or len(raw) != prod(shape) * 4:
            raise ValueError(f"{len(raw)} bytes for shape {shape}")
        return np.frombuffer(raw, "<f4").astype(dtype).reshape(shape).transpose(1, 0, 2)  # versions before compression
    return np.frombuffer(raw, dtype).reshape(shape).transpose(1, 0, 2)
