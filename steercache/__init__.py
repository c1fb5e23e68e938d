"""Activations are data: trace a model once, then fit, choose and test steering vectors as queries over the cache.

    cache = steercache.open("cache/")
    sel = cache.select("anchor_vs_control", concept="spatial_relationship")
    vec = steercache.fit.mean_shift(sel)
    with steercache.steer(model, vec, layer=12, alpha=0.6):
        model.generate(...)

Names are looked up when they are first used, so that importing the package loads nothing heavy.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from steercache import fit as fit
    from steercache.core.selection import Selection
    from steercache.core.vectors import SteeringVector
    from steercache.queries.session import open_session as open
    from steercache.steering.live import steer as steer

__version__ = _version("steercache")
__all__ = ["Selection", "SteeringVector", "fit", "open", "steer"]

_WHERE = {
    "open": ("steercache.queries.session", "open_session"),
    "Selection": ("steercache.core.selection", "Selection"),
    "SteeringVector": ("steercache.core.vectors", "SteeringVector"),
    "fit": ("steercache.fit", None),
    "steer": ("steercache.steering.live", "steer"),
}


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> _Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'steercache' has no attribute {name!r}")
    module_name, attribute = _WHERE[name]
    module = _import_module(module_name)
    return getattr(module, attribute) if attribute else module
