"""Vectors from rows and labels: mean shift, linear probe, and diagnostics of the result.

Pure functions on the arrays of a `core.selection.Selection`, streamed in blocks and accumulated in float64. No
database, model or file is used here. scikit-learn is imported in this package only, when a convex probe is fitted.
"""

from steercache.fit.compare import compare
from steercache.fit.diagnostics import diagnose
from steercache.fit.probe import linear_probe
from steercache.fit.recipes import METHODS, refit
from steercache.fit.shift import mean_shift

__all__ = ["METHODS", "compare", "diagnose", "linear_probe", "mean_shift", "refit"]
