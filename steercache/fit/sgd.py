"""The paper's probe (arXiv 2505.14071): logistic regression without intercept on PCA scores, by plain SGD.

The arithmetic is that of the published code: float32, a sigmoid followed by binary cross-entropy, and the product of their two
derivatives. With p = 1 / (1 + exp(-x)) in float32, the derivative of the loss by the logit x is

    (p - y) / max(p (1 - p), 1e-12) * p (1 - p),

which equals the exact p - y except for saturated rows: it is 0 once p rounds to 1 (x above about 16.6), and it falls from -1
to 0 where p (1 - p) < 1e-12 (x below about -27.6). A row that is wrong by such a margin therefore no longer moves the weights,
although the exact gradient (which scikit-learn and `torch.nn.BCEWithLogitsLoss` use) pulls hardest there. At layers with
large activations the two end in different directions; the convex probe (`fit.convex`) is the exact fit.

What the paper leaves open is chosen so that the result does not depend on it: weights start at zero, so neither a random
start nor the sign of a principal direction matters; rows are shuffled in each epoch by one seeded generator, alike for
all layers; a batch's gradient is its mean, and the last, shorter batch counts too. The PCA is computed in float64.
"""

import numpy as np
import numpy.typing as npt

from steercache.core.selection import Selection
from steercache.fit.blocks import iter_rows
from steercache.fit.reduce import fit_pca
from steercache.fit.scratch import scratch
from steercache.fit.sides import LabelledSides

DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
LEARNING_RATE, EPOCHS, BATCH = 0.003, 400, 32
GRADIENT = (
    "float32 sigmoid + binary cross-entropy"  # in a vector's provenance; vectors without it have the exact gradient
)


def n_components(sel: Selection) -> int:
    """max(sentences // 2, 10)."""
    return max(len(np.unique(sel.sample_idx)) // 2, 10)


def fit_paper(
    sel: Selection, sides: LabelledSides, *, layers: tuple[int, ...], seed: int, memory_mib: int
) -> npt.NDArray[np.float32]:
    """Unit directions, shape (l, d). A row counts as often as `sides.coef` says (whole numbers)."""
    index = np.repeat(np.arange(len(sel)), sides.coef.astype(np.int64))
    pcas = [fit_pca(sel, layer, coef_n=sides.coef, n_components=n_components(sel)) for layer in layers]
    rank = max(pca.basis_dk.shape[1] for pca in pcas)
    with scratch((len(layers), len(index), rank), memory_mib=memory_mib) as scores_lnk:
        for i, (layer, pca) in enumerate(zip(layers, pcas, strict=True)):
            scores_lnk[i] = _scores(sel, layer, mean_d=pca.mean_d, basis_dk=pca.basis_dk, rank=rank)[index]
        weights_lk = descend(scores_lnk, sides.label[index], seed=seed)
    directions = [
        pca.basis_dk @ w[: pca.basis_dk.shape[1]].astype(np.float64) for pca, w in zip(pcas, weights_lk, strict=True)
    ]
    return np.stack([unit(v) for v in directions])


def descend(scores_lnk: DoubleArray, label: npt.NDArray[np.bool_], *, seed: int) -> FloatArray:
    """SGD in float32 on sigmoid and binary cross-entropy for all layers at once, weights of shape (l, k)."""
    n_layers, n_rows, rank = scores_lnk.shape
    generator = np.random.Generator(np.random.PCG64(seed))
    weights: FloatArray = np.zeros((n_layers, rank), dtype=np.float32)
    y = label.astype(np.float32)
    for _ in range(EPOCHS):
        order = generator.permutation(n_rows)
        for start in range(0, n_rows, BATCH):
            rows = order[start : start + BATCH]
            x = scores_lnk[:, rows].astype(np.float32)
            logits = np.matmul(x, weights[:, :, None])[:, :, 0]
            slope: FloatArray = logit_gradient(logits, y[rows]) / np.float32(len(rows))
            weights -= np.float32(LEARNING_RATE) * np.matmul(slope[:, None, :], x)[:, 0, :]
    return weights


def logit_gradient(logits: FloatArray, y: FloatArray) -> FloatArray:
    """Derivative of sigmoid and binary cross-entropy by the logit as float32 backpropagation computes it (see the module)."""
    with np.errstate(over="ignore"):  # exp(-x) may be infinite: p is 0 then
        p: FloatArray = np.float32(1) / (np.float32(1) + np.exp(-logits))
    spread: FloatArray = p * (np.float32(1) - p)
    floor: FloatArray = np.maximum(spread, np.float32(1e-12), dtype=np.float32)
    slope: FloatArray = (p - y) / floor * spread
    return slope


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
