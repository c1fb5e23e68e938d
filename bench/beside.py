"""Bare passes between those of a build: both meet the same second of a machine whose speed drifts by a tenth within minutes.

A bare pass begins only when the build has nothing under way (its writing thread waits for work), so that neither is measured
while the other runs; what the build is given to get there counts as its own time.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

from bench.turns import seconds
from steercache.runs import engine
from steercache.runs.writing import Job, WritingThread

PATIENCE_S = 0.1  # a batch is copied in less; while a shard is written to the disk, the build goes on


def build_and_bare(
    build: Callable[[Callable[[int], None]], Any], bare: Callable[[Any], Any], batches: Iterable[Any]
) -> tuple[float, float]:
    """Seconds of `build`, which is given what to call after each batch, and of `bare(batch)` over the same batches."""
    due, bare_s = deque(batches), 0.0
    writers: list[_Watched] = []
    n_ahead = 0

    def watched() -> _Watched:
        writers.append(_Watched())
        return writers[-1]

    def run_bare(n: int) -> None:
        nonlocal bare_s
        for _ in range(min(n, len(due))):
            bare_s += seconds(lambda: bare(due.popleft()))

    def after_batch(n_tokens: int) -> None:
        nonlocal n_ahead
        n_ahead += 1
        if writers[-1].becomes_idle(PATIENCE_S):
            run_bare(n_ahead)
            n_ahead = 0

    with patch.object(engine, "WritingThread", watched):
        whole_s = seconds(lambda: build(after_batch))
    build_s = whole_s - bare_s
    run_bare(len(due))
    return build_s, bare_s


class _Watched(WritingThread):
    """A writing thread that says whether it has work."""

    def __init__(self) -> None:
        super().__init__()
        self._n_handed_in = self._n_done = 0  # each counted by one thread alone

    def put(self, job: Job) -> None:
        def counted() -> None:
            try:
                job()
            finally:
                self._n_done += 1

        self._n_handed_in += 1
        super().put(counted)

    def becomes_idle(self, within_s: float) -> bool:
        """Wait for it at most so long."""
        end = time.perf_counter() + within_s
        while self._n_done < self._n_handed_in and time.perf_counter() < end:
            time.sleep(0.001)
        return self._n_done == self._n_handed_in
