"""Small pictures of some of a sweep's questions, stored beside its answers: a page shows them without the benchmark's files."""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from steercache.core.errors import DamagedError
from steercache.core.ids import canonical_json
from steercache.store.durable import make_folder, read_bytes, write_file_atomically

FILE_NAME: Final = "pictures.json"
MAX_SIDE: Final = 192  # pixels of the longer side


def save_pictures(folder: Path, pictures: Mapping[str, bytes]) -> None:
    """Write JPEG files by the digest of the picture that each was made of into a sweep's folder."""
    rows = {digest: base64.b64encode(data).decode() for digest, data in pictures.items()}
    make_folder(folder)
    write_file_atomically(folder / FILE_NAME, canonical_json({"pictures": rows}))


def read_pictures(folder: Path) -> dict[str, bytes]:
    """The JPEG files of a sweep by digest; empty if it was stored without them. Raises DamagedError."""
    path = folder / FILE_NAME
    if not path.exists():
        return {}
    try:
        rows = json.loads(read_bytes(path))["pictures"]
        found = {str(digest): base64.b64decode(data, validate=True) for digest, data in rows.items()}
        if not all(data.startswith(b"\xff\xd8\xff") for data in found.values()):
            raise ValueError("one is no JPEG file")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise DamagedError(f"not a sweep's pictures: {error}", place=str(path), hint="run the sweep again") from error
    return found
