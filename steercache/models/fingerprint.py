"""The content of a checkpoint as one hash, read from its safetensors files as a stream, without torch.

The hash is over the sorted (name, dtype, shape, bytes) of every tensor and the meaning of `config.json`. How the tensors are
spread over files, the files' names and their metadata do not count.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from steercache.core.errors import DamagedError
from steercache.core.ids import digest, digest_bytes
from steercache.models.memo import memoised
from steercache.models.older_readers import repeats_in

_BLOCK = 1 << 22  # bytes read at once
_VOLATILE = frozenset({"transformers_version", "dtype", "torch_dtype"})  # the tensors' own dtype is hashed with them


def fingerprint(files: Sequence[Path], config: Mapping[str, Any], *, memo_dir: Path | None = None) -> str:
    """SHA-256 of a checkpoint's tensors and configuration, 64 hex digits.

    With `memo_dir`, what was read from a file that has not changed since (`memo`) is not read again.

    Raises:
        DamagedError: a file is no safetensors file or shorter than its header says.
    """
    tensors = []
    for file in files:
        tensors += memoised(file, memo_dir, noun="tensors", compute=_hash_tensors)
    return digest({"tensors": sorted(tensors), "config": meaning(config)})


def meaning(config: Any) -> Any:
    """A configuration without what depends on who saved it: versions, private keys, dtypes and repeats."""
    if isinstance(config, Mapping):
        kept = (k for k in config if not k.startswith("_") and k not in _VOLATILE | repeats_in(config))
        return {key: meaning(config[key]) for key in kept}
    if isinstance(config, list):
        return [meaning(value) for value in config]
    return config


def tensor_index(file: Path) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: name to dtype, shape and data_offsets.

    Raises:
        DamagedError: the header cannot be read, or the data it tells of are not all there.
    """
    with file.open("rb") as stream:
        return _header(stream, file)[1]


def _header(stream: BinaryIO, file: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Where the data begin, and the header (https://huggingface.co/docs/safetensors, section Format)."""
    n_bytes = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if n_bytes < 8 or length > n_bytes - 8:
        raise _damaged(file, "its header is longer than the file")
    try:
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        offsets = [(int(begin), int(end)) for begin, end in (entry["data_offsets"] for entry in header.values())]
        if any(not 0 <= begin <= end for begin, end in offsets) or any("dtype" not in e for e in header.values()):
            raise ValueError("a tensor without dtype, or that ends before it begins")
        last = max((end for _, end in offsets), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(file, f"its header cannot be read ({error})") from error
    if n_bytes < 8 + length + last:
        raise _damaged(file, f"it has {n_bytes} bytes and its header tells of {8 + length + last}")
    return 8 + length, header


def _damaged(file: Path, why: str) -> DamagedError:
    return DamagedError(
        f"not a whole safetensors file: {why}",
        place=str(file),
        hint="delete the file and fetch or convert the model again",
    )


def _hash_tensors(file: Path) -> list[list[str]]:
    """[name, digest] of every tensor of one file."""
    hashed = []
    with file.open("rb") as stream:
        start, header = _header(stream, file)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            stream.seek(start + begin)
            data = hashlib.sha256()
            left = end - begin
            while left:
                block = stream.read(min(left, _BLOCK))
                if not block:
                    raise _damaged(file, "it became shorter while it was read")
                data.update(block)
                left -= len(block)
            described = json.dumps([entry["dtype"], entry["shape"]]).encode()
            hashed.append([name, digest_bytes(name.encode(), described, data.digest())])
    return hashed
