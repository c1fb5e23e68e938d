"""The paper's probe (arXiv 2505.14071): logistic regression without intercept on PCA scores, by plain SGD.

What the paper leaves open is chosen so that the result does not hang on it: weights start at zero, so that neither a random
start nor the sign of a principal direction matters; the rows are shuffled anew each epoch by one seeded generator, alike for
all layers; a batch's gradient is its mean, and the last, shorter batch counts too.
"""

import numpy as np
import numpy.typing as npt

from steercache.core.selection import Selection
from steercache.fit.blocks import iter_rows
from steercache.fit.reduce import fit_pca
from steercache.fit.scratch import scratch
from steercache.fit.sides import Sides

DoubleArray = npt.NDArray[np.float64]
LEARNING_RATE, EPOCHS, BATCH = 0.003, 400, 32


def n_components(sel: Selection) -> int:
    """max(sentences // 2, 10)."""
    return max(len(np.unique(sel.sample_idx)) // 2, 10)


def fit_paper(
    sel: Selection, sides: Sides, *, layers: tuple[int, ...], seed: int, memory_mib: int
) -> npt.NDArray[np.float32]:
    """Unit directions, shape (l, d). A row counts as often as `sides.coef` says (whole numbers)."""
    index = np.repeat(np.arange(len(sel)), sides.coef.astype(np.int64))
    pcas = [fit_pca(sel, layer, coef_n=sides.coef, n_components=n_components(sel)) for layer in layers]
    rank = max(pca.basis_dk.shape[1] for pca in pcas)
    with scratch((len(layers), len(index), rank), memory_mib=memory_mib) as scores_lnk:
        for i, (layer, pca) in enumerate(zip(layers, pcas, strict=True)):
            scores_lnk[i] = _scores(sel, layer, mean_d=pca.mean_d, basis_dk=pca.basis_dk, rank=rank)[index]
        weights_lk = descend(scores_lnk, sides.label[index], seed=seed)
    directions = [pca.basis_dk @ w[: pca.basis_dk.shape[1]] for pca, w in zip(pcas, weights_lk, strict=True)]
    return np.stack([unit(v) for v in directions])


def descend(scores_lnk: DoubleArray, label: npt.NDArray[np.bool_], *, seed: int) -> DoubleArray:
    """SGD on the logistic loss for all layers at once, weights of shape (l, k)."""
    n_layers, n_rows, rank = scores_lnk.shape
    generator = np.random.Generator(np.random.PCG64(seed))
    weights = np.zeros((n_layers, rank))
    y = label.astype(np.float64)
    for _ in range(EPOCHS):
        order = generator.permutation(n_rows)
        for start in range(0, n_rows, BATCH):
            rows = order[start : start + BATCH]
            x = scores_lnk[:, rows]
            logits = np.matmul(x, weights[:, :, None])[:, :, 0]
            error = 0.5 * (1 + np.tanh(0.5 * logits)) - y[rows]  # the logistic function, without overflow
            weights -= LEARNING_RATE / len(rows) * np.matmul(error[:, None, :], x)[:, 0, :]
    return weights


def unit(direction: DoubleArray) -> npt.NDArray[np.float32]:
    """The direction at length one, in float32; zero stays zero."""
    norm = np.linalg.norm(direction)
    return (direction / (norm if norm > 0 else 1.0)).astype(np.float32)


def _scores(sel: Selection, layer: int, *, mean_d: DoubleArray, basis_dk: DoubleArray, rank: int) -> DoubleArray:
    """PCA scores of every row, padded with zeros to `rank` columns."""
    scores = np.zeros((len(sel), rank))
    for part, rows in iter_rows(sel, layer):
        scores[part, : basis_dk.shape[1]] = (rows.astype(np.float64) - mean_d) @ basis_dk
    return scores
