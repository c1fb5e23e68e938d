"""A small trace with everything on disk: model folder, data file, manifest; and building it."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from steercache.cache.handle import CacheFolder, open_cache
from steercache.runs.engine import BuildOptions, BuildResult, build_run
from steercache.runs.job import prepare_trace
from steercache.runs.plan import plan_run
from tests.tiny import sentences, write_tiny_model


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallTrace:
    """A folder with `model/`, `data.jsonl` and `trace.yaml`."""

    folder: Path

    @property
    def manifest(self) -> Path:
        return self.folder / "trace.yaml"

    def build(self, root: Path, **options: object) -> BuildResult:
        """Build into the cache at `root`."""
        prepared = prepare_trace(self.manifest, cache_root=root, device="cpu")
        cache = open_cache(root, create=True)
        plan = plan_run(prepared.job, cache=cache)
        return build_run(cache, plan, prepared, BuildOptions(**options))  # type: ignore[arg-type]

    def cache(self, root: Path) -> CacheFolder:
        """Build and open."""
        self.build(root)
        return open_cache(root)


def write_small_trace(folder: Path, *, n: int = 60, texts: list[str] | None = None, **trace: object) -> SmallTrace:
    """Write model, data and manifest below `folder`; `trace` overrides fields of the trace manifest.

    Every sentence's second word is its anchor, so that anchors stand at position 1 and later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        write_tiny_model(folder / "model")
    rows = [{"text": text, "anchor": text.split()[1]} for text in texts or sentences(n)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = {
        "kind": "trace",
        "version": 1,
        "name": "small",
        "model": {"kind": "model", "version": 1, "name": "tiny", "source": {"type": "path", "folder": "model"}},
        "datasets": [
            {
                "kind": "dataset",
                "version": 1,
                "name": "words",
                "source": {"type": "jsonl", "path": "data.jsonl", "columns": {"anchor": "anchor"}},
                "first_position": "allow",
            }
        ],
        "chunk_rows": 16,
        "rows_per_shard": 64,
        "numerics": {"tokens_per_batch": 64, "threads": 1},
        **trace,
    }
    (folder / "trace.yaml").write_text(yaml.safe_dump(manifest))
    return SmallTrace(folder=folder)
