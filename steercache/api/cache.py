"""`steercache.open` and `Cache`: everything the command line does to one cache, from Python.

Methods that run a model import torch when they are called, so that opening a cache, SQL and fitting stay quick and work without
it. The methods are grouped in the modules `api.cache_*`, which share only the session.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from steercache.api.cache_analyses import AnalysisMethods
from steercache.api.cache_models import ModelMethods
from steercache.api.cache_queries import QueryMethods
from steercache.api.cache_runs import RunMethods
from steercache.api.cache_saes import SaeMethods
from steercache.api.cache_samples import SampleMethods
from steercache.api.cache_sweeps import SweepMethods
from steercache.api.cache_upkeep import UpkeepMethods
from steercache.api.cache_vectors import VectorMethods
from steercache.api.paths import default_root, root_of
from steercache.cache.handle import CacheFolder as CacheFolder
from steercache.cache.handle import open_cache
from steercache.cache.remote import set_read_cache
from steercache.index.guard import Limits
from steercache.queries.library import load_library
from steercache.queries.session import Session


class Cache(
    QueryMethods,
    RunMethods,
    SampleMethods,
    VectorMethods,
    ModelMethods,
    SaeMethods,
    SweepMethods,
    AnalysisMethods,
    UpkeepMethods,
):
    """One cache: runs of activations, vectors and sweeps below a root folder, and SQL over all of it.

    Holds no file open: each call opens the index for its own length, so that builds, other notebooks and a `duckdb` shell can
    use the cache at the same time. Make one with `steercache.open`.
    """


def open_cache_at(
    root: str | PathLike[str] | None = None,
    *,
    create: bool = False,
    queries: Sequence[str | PathLike[str]] = (),
    limits: Limits | None = None,
    mirror: str | PathLike[str] | None = None,
    read_cache_gb: float | None = None,
) -> Cache:
    """Open the cache at `root` (by default `STEERCACHE_ROOT`, or the folder `cache`).

    `create` makes an empty one where there is none; `queries` are folders of query files of your own; `limits` bound the time
    and memory of every query.

    `root` may be the address of a cache that was pushed to or built in an object store: `s3://bucket/folder`, `gs://...`,
    `az://...`, or `file:///folder`, with the credentials of the environment. Its documents are then mirrored in the folder
    `mirror` (by default below `STEERCACHE_MIRRORS`, or `~/.cache/steercache/roots`); rows are read from there by range
    requests, and at most `read_cache_gb` GB of them kept in the mirror (by default `STEERCACHE_READ_CACHE_GB`, or 10).

    Raises:
        NotFoundError: there is no cache and `create` is false. UsageError: the folder cannot be made; or an address is wrong,
            or the store refuses or does not answer. MissingExtraError: obstore is not installed.
    """
    folder = root_of(default_root() if root is None else root, mirror=mirror)
    if read_cache_gb is not None:
        set_read_cache(folder, round(read_cache_gb * 1e9))
    opened = open_cache(folder, create=create)
    library = load_library([Path(one) for one in queries])
    return Cache(Session(opened, library=library, limits=limits or Limits()))
