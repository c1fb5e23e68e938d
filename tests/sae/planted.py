"""Feature activations with a known answer: some features fire at anchors, some everywhere, the rest at random."""

import numpy as np

from steercache.core.features import FeatureActs
from steercache.sae.selection import LabelledActs

PLANTED, DENSE = (7, 19, 140), (3, 50)
N_FEATURES, N_SENTENCES, LENGTH = 200, 20, 9


def dense_acts(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, s) activations, whether a row is an anchor, and its sentence: two anchor rows a sentence, seven controls."""
    rng = np.random.default_rng(seed)
    n = N_SENTENCES * LENGTH
    sentence = np.repeat(np.arange(N_SENTENCES) * 3, LENGTH)
    is_anchor = np.isin(np.tile(np.arange(LENGTH), N_SENTENCES), (4, 5))
    acts = np.where(rng.random((n, N_FEATURES)) < 0.03, rng.gamma(2.0, 0.5, (n, N_FEATURES)), 0)
    for f in DENSE:
        acts[:, f] = 6 + rng.random(n)
    for f in PLANTED:
        acts[:, f] = np.where(is_anchor & (rng.random(n) < 0.9), 3 + rng.random(n), 0)
    return acts.astype(np.float32), is_anchor, sentence


def labelled(seed: int = 0) -> LabelledActs:
    """The same as the selection takes it."""
    acts, is_anchor, sentence = dense_acts(seed)
    return LabelledActs(acts=FeatureActs.from_dense(acts), is_anchor=is_anchor, sentence=sentence)
