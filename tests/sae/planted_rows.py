"""Rows whose features are known: sums of an SAE's decoder rows, some of them at anchors only; and that SAE in a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import sae_lens
import torch

from steercache.core.selection import QueryRecord, Selection
from tests.fit.arrays import ArraySource, selection
from tests.sae.folders import metadata

D, S, N_SENTENCES, LENGTH = 48, 96, 20, 9
PLANTED, EVERYWHERE = (5, 17, 60), (2,)
TEXT = "select rows"


def directions(seed: int = 0) -> np.ndarray:
    """Unit decoder rows (s, d)."""
    drawn = np.random.default_rng(seed).standard_normal((S, D))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def sae_folder(folder: Path, *, layer: int = 1, seed: int = 0) -> Path:
    """A standard SAE of one layer whose encoder reads along its decoder rows, less a threshold."""
    sae_class, config_class = sae_lens.registry.get_sae_class("standard")
    module = sae_class(config_class(d_in=D, d_sae=S, metadata=metadata(hook_name=f"blocks.{layer}.hook_resid_post")))
    rows = torch.from_numpy(directions(seed))
    module.W_dec.data, module.W_enc.data = rows.clone(), rows.T.clone().contiguous()
    module.b_enc.data, module.b_dec.data = torch.full((S,), -2.0), torch.zeros(D)
    module.save_model(folder)
    return folder


def planted_rows(seed: int = 0, **columns: Any) -> Selection:
    """Rows of layers 0 and 1, at layer 1 with planted features; eight rows a sentence are controls, one is the anchor."""
    rng = np.random.default_rng([seed, 1])
    n = N_SENTENCES * LENGTH
    label = (np.arange(n) % LENGTH == 4).astype(np.int8)
    active = np.where(rng.random((n, S)) < 0.03, 4 + rng.random((n, S)), 0)
    active[:, EVERYWHERE] = 6
    active[:, PLANTED] = np.where(label[:, None] & (rng.random((n, 3)) < 0.95), 6 + rng.random((n, 3)), 0)
    layer_1 = active @ directions() + 0.1 * rng.standard_normal((n, D))
    arrays = {0: rng.standard_normal((n, D)).astype(np.float32), 1: layer_1.astype(np.float32)}
    query = QueryRecord(name="anchor_vs_control", text=TEXT, bindings={"concept": "counting"})
    known = {
        "sample_idx": np.arange(n) // LENGTH,
        "position": (np.arange(n) % LENGTH + 1).astype(np.int32),
        "query": query,
    }
    return selection(ArraySource(arrays=arrays), np.arange(n), label, **(known | columns))
