"""Binomial coefficients in logarithms."""

import numpy as np

from steercache.stats.arrays import Float64Array


def log_binomial(n: int) -> Float64Array:
    """log of n over k for k = 0..n."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    result: Float64Array = log_factorial[n] - log_factorial - log_factorial[::-1]
    return result
