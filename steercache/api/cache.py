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
from steercache.api.paths import default_root
from steercache.cache.handle import CacheFolder as CacheFolder
from steercache.cache.handle import open_cache
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
) -> Cache:
    """Open the cache at `root` (by default `STEERCACHE_ROOT`, or the folder `cache`).

    `create` makes an empty one where there is none; `queries` are folders of query files of your own; `limits` bound the time
    and memory of every query.

    Raises:
        NotFoundError: there is no cache and `create` is false. UsageError: the folder cannot be made.
    """
    folder = default_root() if root is None else Path(root)
    opened = open_cache(folder, create=create)
    library = load_library([Path(one) for one in queries])
    return Cache(Session(opened, library=library, limits=limits or Limits()))
