"""The public Python API; everything here is also `steercache.<name>`.

cache = steercache.open("cache", create=True)
run = cache.build("smollm2-concepts")
sel = cache.select("anchor_vs_control", concept="counting", run=run)
vec = steercache.fit.mean_shift(sel)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steercache.api.cache import Cache, open_cache_at
    from steercache.api.generating import generate
    from steercache.api.models import load
    from steercache.api.pairs import pairs
    from steercache.api.runs import Run
    from steercache.api.saes import load_sae
    from steercache.api.sweeps import Sweep

__all__ = ["Cache", "Run", "Sweep", "generate", "load", "load_sae", "open_cache_at", "pairs"]

_MODULES = {
    "Cache": "cache",
    "Run": "runs",
    "Sweep": "sweeps",
    "generate": "generating",
    "load": "models",
    "load_sae": "saes",
    "open_cache_at": "cache",
    "pairs": "pairs",
}


def __getattr__(name: str) -> Any:
    """Names are imported when they are used: most of them need torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'steercache.api' has no attribute {name!r}")
    return getattr(import_module(f"steercache.api.{_MODULES[name]}"), name)
