"""How many threads a fit computes on: one for linear algebra of small problems, one a core for reading layers.

A probe's products are small: spread over threads they gain little on idle cores and lose tenfold on busy ones, where BLAS
threads spin while they wait for each other (measured: 8 s became 140 s beside another job). And one thread rounds alike
whatever the machine's core count is set to.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_LARGE = 50_000_000  # entries of a layer's matrix (rows x width), from which threads are worth their cost


@contextmanager
def fitting_threads(n_rows: int, width: int) -> Iterator[None]:
    """Hold BLAS and OpenMP to one thread while a small problem is fitted."""
    if n_rows * width >= _LARGE:
        yield
        return
    with one_blas_thread():
        yield


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS and OpenMP to one thread; where threadpoolctl is missing, leave them alone."""
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:  # comes with scikit-learn; the paper's recipe works without either
        yield
        return
    with threadpool_limits(limits=1):  # BLAS, and OpenMP in scikit-learn
        yield


def layer_threads(n_layers: int) -> int:
    """Threads for work that goes layer by layer and is bound by reading: one a core, at most eight."""
    return max(1, min(n_layers, os.cpu_count() or 1, 8))
