"""Rows with planted sparse features, as training gets them."""

from pathlib import Path
from typing import Any

import numpy as np

from steercache.sae.training import train_sae
from steercache.sae.training_rows import TrainingRows
from steercache.sae.training_settings import TrainingSettings

WIDTH, PLANTED, ACTIVE = 24, 72, 3.0
METADATA = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post", "prepend_bos": False}


def planted_rows(n: int = 12_000, *, seed: int = 0) -> tuple[TrainingRows, np.ndarray]:
    """Sums of few of many directions, off centre; the last tenth is held out."""
    draw = np.random.default_rng(seed)
    directions = draw.normal(size=(PLANTED, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    active = (draw.random((n, PLANTED)) < ACTIVE / PLANTED) * (1 + draw.random((n, PLANTED)))
    values = (active @ directions + 0.3 * draw.normal(size=WIDTH)).astype(np.float32) * 40
    return as_training_rows(values), values


def as_training_rows(values: np.ndarray) -> TrainingRows:
    n = len(values)
    training = np.arange(n * 9 // 10, dtype=np.int64)
    return TrainingRows(
        gather=lambda wanted: values[wanted],
        width=values.shape[1],
        training=training,
        held_out=np.arange(len(training), n, dtype=np.int64),
        mean_norm=float(np.linalg.norm(values[training], axis=1).mean()),
    )


def settings(**changes: Any) -> TrainingSettings:
    given = {"width": "4x", "k": ACTIVE, "batch_size": 256, "n_rows": 60_000, "lr": 3e-3, "checkpoint_every_s": 1e9}
    return TrainingSettings(**{**given, **changes})


def trained(rows: TrainingRows, out: Path, **changes: Any) -> Path:
    return train_sae(rows, settings(**changes), out=out, metadata=METADATA)
