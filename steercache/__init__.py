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

from steercache.core.vector_exports import exported_by as _exported_by

if _TYPE_CHECKING:
    from steercache import fit as fit
    from steercache.analysis.interference import Steering as Steering
    from steercache.analysis.interference import interference as interference
    from steercache.api.cache import Cache as Cache
    from steercache.api.cache import open_cache_at as open
    from steercache.api.exchanging import export_vector as export_vector
    from steercache.api.generating import generate as generate
    from steercache.api.models import load as load
    from steercache.api.pairs import pairs as pairs
    from steercache.api.runs import Run as Run
    from steercache.api.saes import load_sae as load_sae
    from steercache.api.sweeps import Sweep as Sweep
    from steercache.api.targets import plan_target as plan_target
    from steercache.core.selection import Selection as Selection
    from steercache.core.vector_use import VectorUse as VectorUse
    from steercache.core.vectors import SteeringVector as SteeringVector
    from steercache.explorer.server import serve as serve
    from steercache.sae.endpoint import JudgeEndpoint as JudgeEndpoint
    from steercache.sae.training_settings import TrainingSettings as TrainingSettings
    from steercache.steering.live import steer as steer
    from steercache.steering.steered import steered as steered

__version__ = _version("steercache")
__all__ = [
    "Cache",
    "JudgeEndpoint",
    "Run",
    "Selection",
    "Steering",
    "SteeringVector",
    "Sweep",
    "TrainingSettings",
    "VectorUse",
    "export_vector",
    "fit",
    "generate",
    "interference",
    "load",
    "load_sae",
    "open",
    "pairs",
    "plan_target",
    "serve",
    "steer",
    "steered",
]

_WHERE = {
    "Cache": ("steercache.api.cache", "Cache"),
    "JudgeEndpoint": ("steercache.sae.endpoint", "JudgeEndpoint"),
    "Run": ("steercache.api.runs", "Run"),
    "Selection": ("steercache.core.selection", "Selection"),
    "Steering": ("steercache.analysis.interference", "Steering"),
    "SteeringVector": ("steercache.core.vectors", "SteeringVector"),
    "Sweep": ("steercache.api.sweeps", "Sweep"),
    "TrainingSettings": ("steercache.sae.training_settings", "TrainingSettings"),
    "VectorUse": ("steercache.core.vector_use", "VectorUse"),
    "export_vector": ("steercache.api.exchanging", "export_vector"),
    "fit": ("steercache.fit", None),
    "generate": ("steercache.api.generating", "generate"),
    "interference": ("steercache.analysis.interference", "interference"),
    "load": ("steercache.api.models", "load"),
    "load_sae": ("steercache.api.saes", "load_sae"),
    "open": ("steercache.api.cache", "open_cache_at"),
    "pairs": ("steercache.api.pairs", "pairs"),
    "plan_target": ("steercache.api.targets", "plan_target"),
    "serve": ("steercache.explorer.server", "serve"),
    "steer": ("steercache.steering.live", "steer"),
    "steered": ("steercache.steering.steered", "steered"),
}


_exported_by(lambda: __getattr__("export_vector"))


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> _Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'steercache' has no attribute {name!r}")
    module_name, attribute = _WHERE[name]
    module = _import_module(module_name)
    return getattr(module, attribute) if attribute else module
