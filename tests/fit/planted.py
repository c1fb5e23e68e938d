"""Data with a known answer: sentences of random rows, one anchor word in each, and a direction planted at the anchors."""

from typing import Any

import numpy as np

from steercache.core.selection import Selection
from tests.fit.arrays import ArraySource, selection

D, T = 40, 9


def planted(
    n_sentences: int = 60, *, strength: float = 3.0, n_words: int = 12, seed: int = 0, **columns: Any
) -> tuple[Selection, np.ndarray]:
    """A selection over two layers and the unit direction planted in layer 1 (layer 0 has none)."""
    rng = np.random.default_rng(seed)
    n = n_sentences * T
    sample = np.repeat(np.arange(n_sentences), T)
    position = np.tile(np.arange(1, T + 1), n_sentences).astype(np.int32)
    label = (position == 4).astype(np.int8)
    token = rng.integers(100, 160, n).astype(np.int32)
    token[label == 1] = np.arange(n_sentences) % n_words
    direction = rng.normal(size=D)
    direction /= np.linalg.norm(direction)
    spread = np.exp(rng.normal(size=D) * 0.7)
    arrays = {}
    for layer in (0, 1):
        x = rng.normal(size=(n, D)) * spread + rng.normal(size=D) * 5
        x += rng.normal(size=(n_sentences, D))[sample] * 0.5
        x += layer * strength * label[:, None] * direction
        arrays[layer] = x.astype(np.float32)
    known = {"sample_idx": sample, "position": position, "token_id": token} | columns
    return selection(ArraySource(arrays=arrays), np.arange(n), label, **known), direction


def cos(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
