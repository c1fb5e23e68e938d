"""Where the cache is: a folder, or the folder that mirrors an address. Imports nothing heavy: every command needs it."""

import os
from os import PathLike
from pathlib import Path

from steercache.core.errors import UsageError
from steercache.index.place import INDEX_NAME, duckdb_name, home_expanded
from steercache.objects.addresses import is_address as is_address
from steercache.objects.addresses import parse_address
from steercache.objects.mirrors import address_of as address_of
from steercache.objects.mirrors import local_folder


def default_root() -> Path:
    """`STEERCACHE_ROOT`, or `cache` in the current folder."""
    return root_of(os.environ.get("STEERCACHE_ROOT") or "cache")


def root_of(root: str | PathLike[str], *, mirror: str | PathLike[str] | None = None) -> Path:
    """The folder of a root that may be an address (`s3://`, `gs://`, `az://`, `file://`): of an address its mirror.

    Raises:
        UsageError: a wrong address, or `mirror` holds something else or is given for a folder.
    """
    text = os.fspath(root)
    if is_address(text):
        return local_folder(parse_address(text), None if mirror is None else Path(mirror))
    if mirror is not None:
        raise UsageError("only an address has a mirror", place=text, hint="an address, such as s3://BUCKET/FOLDER")
    return Path(text)


def refuse_address(path: str | PathLike[str], what: str, *, hint: str) -> None:
    """Raise UsageError where `path` is an address or mirrors one: `what` is written to a path of this machine."""
    text = os.fspath(path)
    address = text if "://" in text else address_of(Path(text))
    if address is not None:
        raise UsageError(f"{what} cannot be written to an address", place=address[:200], hint=hint)


def usable_root(root: Path) -> Path:
    """`root` with a leading `~` replaced, if the cache's index can be kept there.

    Raises:
        UsageError: there is no such home folder, or DuckDB cannot have a file at that path.
    """
    folder = home_expanded(root)
    duckdb_name(folder / INDEX_NAME)
    return folder
