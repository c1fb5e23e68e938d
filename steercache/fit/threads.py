"""One thread of linear algebra for small fits.

A probe's products are small: spread over threads they gain little on idle cores and lose tenfold on busy ones, where BLAS
threads spin while they wait for each other (measured: 8 s became 140 s beside another job). And one thread rounds alike
whatever the machine's core count is set to.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_LARGE = 50_000_000  # entries of a layer's matrix (rows x width), from which threads are worth their cost


@contextmanager
def fitting_threads(n_rows: int, width: int) -> Iterator[None]:
    """Hold BLAS and OpenMP to one thread while a small problem is fitted; where threadpoolctl is missing, leave it alone."""
    if n_rows * width >= _LARGE:
        yield
        return
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:  # comes with scikit-learn; the paper's recipe works without either
        yield
        return
    with threadpool_limits(limits=1):  # BLAS, and OpenMP in scikit-learn
        yield
