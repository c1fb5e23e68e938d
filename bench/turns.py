"""Two ways to do one thing, taken in turns; what counts is the median of the ratios within a turn."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from steercache.models.slow_dtype import times_float32

Row = dict[str, Any]


def take_turns(
    name: str, ours: Callable[[], Any], peer: Callable[[], Any], *, n: int, target: str, best_of: int = 1
) -> Row:
    """Time both `n` times in turn; the ratio is ours/peer for a target `<=`, peer/ours (how much faster we are) for `>=`.

    A turn is the best of `best_of` calls, the same for both: a call of a millisecond that another process interrupts says
    nothing about either.
    """
    times: list[tuple[float, float]] = []
    for turn in range(n):
        pair = [0.0, 0.0]
        for which in ((0, 1), (1, 0))[turn % 2]:
            pair[which] = min(seconds((ours, peer)[which]) for _ in range(best_of))
        times.append((pair[0], pair[1]))
    return row_of(name, times, target=target, faster=target.startswith(">="))


def seconds(work: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fast_dtype() -> str:
    """The dtype in which this machine multiplies matrices faster: CPUs without bfloat16 units are several times slower in it.

    Forward passes that nobody would wait for are no peer, so every bench that has them runs in this one.
    """
    return "float32" if times_float32(torch.bfloat16) > 1 else "bfloat16"


def row_of(name: str, times: list[tuple[float, float]], *, target: str, faster: bool) -> Row:
    """A line of the report from pairs of seconds (ours, peer)."""
    ratio = statistics.median(p / o if faster else o / p for o, p in times)
    limit = float(target.split()[1])
    return {
        "name": name,
        "ours_s": statistics.median(o for o, _ in times),
        "peer_s": statistics.median(p for _, p in times),
        "ratio": ratio,
        "target": target,
        "met": ratio >= limit if target.startswith(">") else ratio <= limit,
        "n": len(times),
    }
