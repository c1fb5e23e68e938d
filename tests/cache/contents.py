"""Everything that a cache holds, in a form that can be compared."""

import hashlib
import json
from pathlib import Path
from typing import Any

from steercache.cache.handle import open_cache

VOLATILE = ("created_at",)
TABLES = ("runs", "sites", "shards", "samples", "tokens", "vectors", "codec_errors")


def files_of(root: Path) -> dict[str, str]:
    """Digest of every file of a cache but the index, the locks and what depends on the clock."""
    found = {}
    for path in sorted(p for p in (root / "runs").rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if path.name == "LOCK":
            continue
        data = path.read_bytes()
        if path.name == "run.json":
            document = json.loads(data)
            data = json.dumps({k: v for k, v in document.items() if k not in VOLATILE}, sort_keys=True).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def tables_of(root: Path) -> dict[str, list[Any]]:
    """Rows of every table of the index, sorted, without what depends on the clock."""
    with open_cache(root).connection() as connection:
        found = {}
        for table in TABLES:
            columns = [c[0] for c in connection.execute(f"describe {table}").fetchall()]
            kept = ", ".join(c for c in columns if c not in (*VOLATILE, "committed_at"))
            found[table] = sorted(connection.execute(f"select {kept} from {table}").fetchall(), key=repr)
    return found
