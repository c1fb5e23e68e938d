"""What the tests of a table count, where several questions share a picture."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steercache.benchmarks.comparison import Comparison


def clusters_line(comparison: "Comparison") -> str | None:
    """What the tests are of where questions share pictures; None where every picture has one question."""
    clusters = comparison.clusters
    if clusters.icc is None:
        return None
    return (
        f"{clusters.n} questions of {clusters.n_groups} pictures: p, interval and 'could show' count by picture"
        f" (intra-class correlation {clusters.icc:.2f}, design effect {clusters.design_effect:.2f})"
    )
