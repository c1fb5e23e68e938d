"""Building a small trace into an object store by its address, and what lies there."""

from pathlib import Path

import obstore
from obstore.store import from_url

from steercache.api.paths import root_of
from steercache.cache.handle import open_cache
from steercache.runs.engine import BuildOptions, BuildResult, build_run
from steercache.runs.job import prepare_trace
from steercache.runs.plan import plan_run
from tests.tracing import SmallTrace


def build_at(address: str, trace: SmallTrace, mirror: Path, **options: object) -> BuildResult:
    """Build into the root at `address`, with its documents in the folder `mirror`."""
    cache = open_cache(root_of(address, mirror=mirror), create=True)
    prepared = prepare_trace(trace.manifest, cache_root=mirror, device="cpu")
    return build_run(cache, plan_run(prepared.job, cache=cache), prepared, BuildOptions(**options))  # type: ignore[arg-type]


def objects_in_bucket(address: str) -> dict[str, bytes]:
    """Every object below an address, by its path below it, read by obstore alone."""
    store = from_url(address)
    paths = [meta["path"] for page in obstore.list(store) for meta in page]
    return {path: bytes(obstore.get(store, path).bytes()) for path in sorted(paths)}
