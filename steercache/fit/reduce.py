"""Rows as a matrix to fit on: centred and scaled, and turned into the space that they span."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.fit.blocks import iter_rows

DoubleArray = npt.NDArray[np.float64]
_RANK_TOL = 1e-12  # eigenvalues below this share of the largest are rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Pca:
    """Mean (d,) and the principal directions as columns, (d, k), by falling variance."""

    mean_d: DoubleArray
    basis_dk: DoubleArray


def moments(sel: Selection, layer: int, coef_n: npt.NDArray[np.float32]) -> tuple[DoubleArray, DoubleArray]:
    """Weighted mean and standard deviation per dimension, each (d,), in two passes; a constant dimension gets deviation 1."""
    weight = coef_n.astype(np.float64)
    total = weight.sum()
    mean = sum(weight[part] @ rows.astype(np.float64) for part, rows in iter_rows(sel, layer)) / total
    var = sum(weight[part] @ (rows.astype(np.float64) - mean) ** 2 for part, rows in iter_rows(sel, layer)) / total
    deviation = np.sqrt(var)
    deviation[deviation <= 1e-9 * np.maximum(np.abs(mean), 1e-30)] = 1.0
    return mean, deviation


def fill_scaled(out_nd: DoubleArray, sel: Selection, layer: int, *, mean_d: DoubleArray, scale_d: DoubleArray) -> None:
    """Write (x - mean) / scale of every row into `out_nd`, block by block."""
    for part, rows in iter_rows(sel, layer):
        np.divide(rows - mean_d, scale_d, out=out_nd[part])


def span(x_nd: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Coordinates (n, r) of the rows in an orthonormal basis (d, r) of the space that they span, for n < d.

    A fit with an L2 penalty has its optimum in that space, so nothing is lost. From the eigenvectors of X X^T.
    """
    values, vectors = np.linalg.eigh(x_nd @ x_nd.T)
    keep = values > max(values[-1], 0.0) * _RANK_TOL
    root = np.sqrt(values[keep])
    return vectors[:, keep] * root, x_nd.T @ (vectors[:, keep] / root)


def all_the_same(layer: int) -> UsageError:
    """What to raise where there is nothing to tell rows apart by."""
    return UsageError(
        f"all rows are the same at layer {layer}, so no direction tells the two sides apart",
        hint="select tokens that differ between the sides; the last tokens of two texts can be one and the same",
    )


def fit_pca(sel: Selection, layer: int, *, coef_n: npt.NDArray[np.float32], n_components: int) -> Pca:
    """Centred PCA of the rows at one layer, each counted `coef_n` times.

    With more rows than dimensions, from the covariance matrix summed over blocks of rows (memory d x d); with fewer, from
    the rows' Gram matrix (memory n x d, which is less).
    """
    mean, _ = moments(sel, layer, coef_n)
    root = np.sqrt(coef_n.astype(np.float64))
    if np.count_nonzero(coef_n) <= len(mean):
        used = np.flatnonzero(coef_n)
        centred = (sel.gather(layer, part=used, dtype="stored").astype(np.float64) - mean) * root[used, None]
        values, vectors = np.linalg.eigh(centred @ centred.T)
        basis = centred.T @ vectors
    else:
        covariance = np.zeros((len(mean), len(mean)))
        for part, rows in iter_rows(sel, layer):
            centred = (rows.astype(np.float64) - mean) * root[part, None]
            covariance += centred.T @ centred
        values, basis = np.linalg.eigh(covariance)
    order = np.argsort(-values, kind="stable")[:n_components]
    order = order[values[order] > max(values.max(), 0.0) * _RANK_TOL]
    if not len(order):
        raise all_the_same(layer)
    chosen = basis[:, order]
    return Pca(mean_d=mean, basis_dk=chosen / np.linalg.norm(chosen, axis=0))
