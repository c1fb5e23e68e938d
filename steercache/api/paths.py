"""Where the cache is when none is named."""

import os
from pathlib import Path


def default_root() -> Path:
    """`STEERCACHE_ROOT`, or `cache` in the current folder."""
    return Path(os.environ.get("STEERCACHE_ROOT") or "cache")
