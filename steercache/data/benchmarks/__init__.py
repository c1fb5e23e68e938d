"""Public visual question sets as streams of Examples: from the hub, or from a folder that has the hub's layout.

This package owns the columns of each set, which picture a question belongs to, and the two split rules (`paper`, as
published, and `grouped`, by picture or by set of pictures). It refuses to score (benchmarks/), to write prompts of a family
(models/, trace/) and to drop a row in silence: what cannot be used is in `Benchmark.failures`, with its place and reason.
"""

from steercache.data.benchmarks.catalogue import BENCHMARKS, open_benchmark, reworded, verified
from steercache.data.benchmarks.questions import Benchmark, FailedRow

__all__ = ["BENCHMARKS", "Benchmark", "FailedRow", "open_benchmark", "reworded", "verified"]
