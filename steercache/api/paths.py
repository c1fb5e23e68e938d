"""Where the cache is when none is named, and which folders can hold one. Imports nothing heavy: every command needs it."""

import os
from pathlib import Path

from steercache.index.place import INDEX_NAME, duckdb_name, home_expanded


def default_root() -> Path:
    """`STEERCACHE_ROOT`, or `cache` in the current folder."""
    return Path(os.environ.get("STEERCACHE_ROOT") or "cache")


def usable_root(root: Path) -> Path:
    """`root` with a leading `~` replaced, if the cache's index can be kept there.

    Raises:
        UsageError: there is no such home folder, or DuckDB cannot have a file at that path.
    """
    folder = home_expanded(root)
    duckdb_name(folder / INDEX_NAME)
    return folder
