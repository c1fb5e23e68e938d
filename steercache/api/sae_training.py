"""Training SAEs from cached rows: what `Cache.train_sae` does."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steercache.api.progress import ProgressLike, reporting
from steercache.queries.session import Session
from steercache.sae.health import KindHealth, health_of_rows
from steercache.sae.loaded import LoadedSae
from steercache.sae.loading import load_sae
from steercache.sae.training import train_sae
from steercache.sae.training_rows import KINDS, SITE, TrainingRows, blocks, training_rows
from steercache.sae.training_settings import TrainingSettings as TrainingSettings
from steercache.store.durable import write_file_atomically

HEALTH = "health.json"  # beside the weights: what was measured on held-out rows when training ended

_FIRST_TOKENS = (
    "SELECT bool_and(kind = 'special'), bool_or(kind = 'special') FROM tokens WHERE run_id = $run AND position = 0"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSae:
    """An SAE that was trained from a run: its folder, the SAE itself, and how well it rebuilds held-out rows.

    `health` is None where nothing was held out.
    """

    folder: Path
    sae: LoadedSae
    health: KindHealth | None
    n_training_rows: int
    n_held_out_rows: int
    n_left_out: int


def train(
    session: Session,
    run: str,
    *,
    layer: int,
    out: str | os.PathLike[str],
    settings: TrainingSettings,
    kinds: Sequence[str] = KINDS,
    device: str = "cpu",
    progress: ProgressLike = None,
) -> TrainedSae:
    """Train an SAE on one layer of a run; see `Cache.train_sae`."""
    run_id = session.cache.resolve_run(run)
    with reporting(progress) as show:
        show("reading row norms", 0, None)
        rows = training_rows(
            session,
            run_id,
            layer=layer,
            kinds=kinds,
            held_out=settings.held_out,
            max_norm_ratio=settings.max_norm_ratio,
            seed=settings.seed,
        )
        metadata = _metadata(session, run_id, rows, layer=layer, kinds=kinds)
        folder = train_sae(rows, settings, out=Path(out), metadata=metadata, device=device, progress=show)
        sae = load_sae(folder)
        show("measuring", 0, None)
        held_out = blocks(rows.gather, rows.held_out)
        health = health_of_rows(sae, held_out, kind="held out") if len(rows.held_out) else None
    if health is not None:
        write_file_atomically(folder / HEALTH, (json.dumps(asdict(health), indent=1) + "\n").encode())
    return TrainedSae(
        folder=folder,
        sae=sae,
        health=health,
        n_training_rows=len(rows.training),
        n_held_out_rows=len(rows.held_out),
        n_left_out=rows.n_long,
    )


def _metadata(session: Session, run_id: str, rows: TrainingRows, *, layer: int, kinds: Sequence[str]) -> dict[str, Any]:
    """What the SAE's configuration says of its activations: in sae-lens' terms, and under `steercache` in ours."""
    source = session.cache.source(run_id)
    ((every, any_of_them),) = session.sql(_FIRST_TOKENS, run=run_id).fetchall()
    model = source.document.model
    ours = {
        "run_id": run_id,
        "run": source.document.name,
        "generation": source.generation,
        "lossy": source.lossy,
        "model_fingerprint": model.fingerprint,
        "site": SITE,
        "layer": layer,
        "kinds": list(kinds),
        "first_position": 1,
        "n_training_rows": len(rows.training),
        "n_held_out_rows": len(rows.held_out),
        "n_long_rows_left_out": rows.n_long,
    }
    return {
        "model_name": model.name,
        "hook_name": f"blocks.{layer}.hook_{SITE}",
        "prepend_bos": bool(every) if every == any_of_them else None,  # None: trained on texts with and without
        "steercache": ours,
    }
