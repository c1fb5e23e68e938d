"""Vectors from rows and labels: the methods of `catalogue`, and diagnostics of the result.

Pure functions on the arrays of a `core.selection.Selection`, streamed in blocks and accumulated in float64. No
database, model or file is used here. scikit-learn is imported in this package only, when a convex probe is fitted.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from steercache.fit.catalogue import METHODS
from steercache.fit.compare import compare
from steercache.fit.condition import find_condition
from steercache.fit.diagnostics import diagnose
from steercache.fit.heads import head_probes
from steercache.fit.pca import lat, pca_center, pca_diff
from steercache.fit.probe import linear_probe
from steercache.fit.recipes import refit
from steercache.fit.shift import mean_shift
from steercache.fit.unit_shift import unit_shift
from steercache.fit.whitened import lda, mass_mean

if TYPE_CHECKING:
    from steercache.sae.vector import sae as sae

__all__ = [
    "METHODS",
    "compare",
    "diagnose",
    "find_condition",
    "head_probes",
    "lat",
    "lda",
    "linear_probe",
    "mass_mean",
    "mean_shift",
    "pca_center",
    "pca_diff",
    "refit",
    "sae",
    "unit_shift",
]


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Any:
    """`steercache.fit.sae` is implemented in the package `sae`, because it needs another extra."""
    if name != "sae":
        raise AttributeError(f"module 'steercache.fit' has no attribute {name!r}")
    return import_module("steercache.sae.vector").sae
