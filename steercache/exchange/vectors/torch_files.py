"""`.pt` files: read without running code, and with our header beside the pickle, where torch does not look."""

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from steercache.core.ids import canonical_json
from steercache.exchange.vectors.held import MAX_FILE_BYTES, read_limited, refused

HEADER_ENTRY: Final = "steercache.json"
_MAX_PICKLE_BYTES: Final = 64 << 20
_MAX_ENTRIES: Final = 100_000


def torch_bytes(value: Any, *, head: Mapping[str, Any]) -> bytes:
    """What `torch.save` writes, and one entry more in its zip archive, which `torch.load` does not read."""
    import torch

    stream = io.BytesIO()
    torch.save(value, stream)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/{HEADER_ENTRY}", canonical_json(head))
    return stream.getvalue()


def load_torch(path: Path) -> tuple[Any, Mapping[str, Any] | None]:
    """What the file holds, and our header if it has one; only tensors and plain containers are unpickled.

    Raises:
        UsageError: no zip archive of torch, a compressed or swollen one, or a pickle with anything else in it.
    """
    import torch

    data = read_limited(path)
    if not data.startswith(b"PK"):
        raise refused(
            path,
            "is no archive of torch; older ones are bare pickles and are not read",
            "save it again with torch.save",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            header = _header(path, archive)
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("Please file an issue")[0].strip().splitlines()
        raise refused(
            path, f"holds more than tensors and is not loaded, for that could run code: {reason[-1]:.200}"
        ) from error
    except (zipfile.BadZipFile, RuntimeError, ValueError, KeyError, EOFError, RecursionError, TypeError) as error:
        raise refused(path, f"no whole file of torch: {str(error).splitlines()[0]:.200}") from error
    return value, header


def _header(path: Path, archive: zipfile.ZipFile) -> Mapping[str, Any] | None:
    entries = archive.infolist()
    swollen = sum(entry.file_size for entry in entries)
    if len(entries) > _MAX_ENTRIES or swollen > MAX_FILE_BYTES:
        raise refused(path, f"unpacks to {swollen:,} bytes in {len(entries):,} entries, more than vectors have")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise refused(path, f"its entry {entry.filename!r:.80} is compressed, which torch never does")
        if entry.filename.endswith(".pkl") and entry.file_size > _MAX_PICKLE_BYTES:
            raise refused(path, f"its pickle has {entry.file_size:,} bytes, more than vectors need")
    ours = [entry for entry in entries if entry.filename.rpartition("/")[2] == HEADER_ENTRY]
    found = json.loads(archive.read(ours[0])) if ours else None
    return found if isinstance(found, dict) else None


def tensor_array(value: Any) -> Any:
    """A tensor as a numpy array of its own type, bfloat16 as float32; anything else as it is.

    Raises:
        ValueError: one with more values than its storage (an expanded one), or on no memory.
    """
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    if (
        value.is_sparse
        or value.device.type != "cpu"
        or value.numel() * value.element_size() > value.untyped_storage().nbytes()
    ):
        raise ValueError("a tensor that is not dense and whole")
    whole = value.detach()
    return (whole.float() if whole.dtype in (torch.bfloat16, torch.float16) else whole).numpy()
