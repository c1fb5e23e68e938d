"""Local folders that mirror a cache elsewhere: which folder an address has, and which address a folder has."""

import json
import os
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import DamagedError, UsageError
from steercache.core.ids import SHORT_ID, digest
from steercache.objects.addresses import StoreAddress
from steercache.store.durable import make_folder, write_file_atomically

MARKER: Final = "REMOTE.json"
MIRRORS_VARIABLE: Final = "STEERCACHE_MIRRORS"


def local_folder(address: StoreAddress, mirror: Path | None = None) -> Path:
    """The folder that mirrors an address, made if need be: `mirror`, or one below `STEERCACHE_MIRRORS` (by default below
    the user's folder of caches).

    Raises:
        UsageError: there is something else in the folder, or it cannot be made.
    """
    if mirror is None:
        given = os.environ.get(MIRRORS_VARIABLE)
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        base = Path(given) if given else Path(caches) / "steercache" / "roots"
        mirror = base / f"{address.label}-{digest(address.text)[:SHORT_ID]}"
    mirror = mirror.expanduser()
    if address_of(mirror) != address.text:
        if mirror.is_dir() and any(mirror.iterdir()):
            raise UsageError(
                "the folder holds something else than the mirror of this address",
                place=str(mirror),
                hint="an empty folder, or one that is not there",
            )
        make_folder(mirror)
        write_file_atomically(mirror / MARKER, json.dumps({"format": 1, "address": address.text}).encode() + b"\n")
    return mirror


def address_of(root: Path) -> str | None:
    """The address that a folder mirrors; None for an ordinary folder. Raises DamagedError."""
    try:
        said: Any = json.loads((root / MARKER).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DamagedError(
            "not readable", place=str(root / MARKER), hint="remove the folder: it is a mirror"
        ) from error
    if not isinstance(said, dict) or said.get("format") != 1 or not isinstance(said.get("address"), str):
        raise DamagedError("not of this version", place=str(root / MARKER), hint="pip install --upgrade steercache")
    return str(said["address"])


def refuse_remote(root: Path, doing: str, *, hint: str) -> None:
    """Raise UsageError where `root` mirrors a cache elsewhere."""
    address = address_of(root)
    if address is not None:
        raise UsageError(f"{doing} is not possible in a cache that is elsewhere", place=address, hint=hint)
