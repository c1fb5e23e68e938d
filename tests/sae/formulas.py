"""Encode and decode of each kind of SAE as published, in a few lines of numpy: the oracle for what sae-lens computes.

Gemma Scope (arXiv 2408.05147), Gated SAEs (2404.16014), TopK (2406.04093), BatchTopK (2412.06410, a threshold once trained),
AbsTopK (2510.00404).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def standard(x: Array, w: Weights, *, subtract: bool = True) -> Array:
    return relu((x - subtract * w["b_dec"]) @ w["W_enc"] + w["b_enc"])


def jumprelu(x: Array, w: Weights, *, subtract: bool = False) -> Array:
    pre = (x - subtract * w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    return relu(pre) * (pre > w["threshold"])


def gated(x: Array, w: Weights, *, subtract: bool = True) -> Array:
    shared = (x - subtract * w["b_dec"]) @ w["W_enc"]
    return (shared + w["b_gate"] > 0) * relu(shared * np.exp(w["r_mag"]) + w["b_mag"])


def largest(values: Array, k: int) -> npt.NDArray[np.bool_]:
    kept = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(-values, axis=1)[:, :k], True, axis=1)
    return kept


def topk(x: Array, w: Weights, k: int, *, subtract: bool = True, rescale: bool = False) -> Array:
    pre = (x - subtract * w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    if rescale:
        pre = pre * np.linalg.norm(w["W_dec"], axis=1)
    return relu(pre) * largest(pre, k)


def abstopk(x: Array, w: Weights, k: int, *, subtract: bool = True) -> Array:
    pre = (x - subtract * w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    return pre * largest(np.abs(pre), k)


def decode(features: Array, w: Weights, *, rescale: bool = False) -> Array:
    rows = w["W_dec"] / np.linalg.norm(w["W_dec"], axis=1, keepdims=True) if rescale else w["W_dec"]
    return features @ rows + w["b_dec"]
