"""How a vector is made from rows and labels: mean shift, linear probe, and what can be measured about the result.

Pure maths on the arrays of a `core.selection.Selection`, streamed by blocks of rows, accumulated in float64. This room never
sees a database, a model or a file; scikit-learn is met here and nowhere else, and only when a convex probe is fitted.
"""

from steercache.fit.compare import compare
from steercache.fit.diagnostics import diagnose
from steercache.fit.probe import linear_probe
from steercache.fit.recipes import METHODS, refit
from steercache.fit.shift import mean_shift

__all__ = ["METHODS", "compare", "diagnose", "linear_probe", "mean_shift", "refit"]
