"""Sweeps on the shipped tiny model: a manifest on disk, prepared and run."""

from pathlib import Path
from typing import Any

import yaml

from steercache.benchmarks.task import Progress
from steercache.cells.sweep import SweepJob, prepare_sweep
from steercache.manifests.resolve import ResolvedSweep, resolve_sweep
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.sweeps.grid import GridOptions, GridResult, run_grid

COUNT = {"benchmark": "scenes", "task": "Count", "form": "number"}


def write_sweep(folder: Path, **changes: Any) -> ResolvedSweep:
    """A sweep of 12 cells over 14 counting questions a split."""
    known: dict[str, Any] = {
        "kind": "sweep",
        "version": 1,
        "name": "small",
        "model": {"zoo": "tiny"},
        "vectors": ["counting"],
        "layers": [1, 3, 4],
        "alphas": [3, 9],
        "targets": ["image", "text"],
        "tasks": [COUNT],
        "n": 14,
        "decoding": {"max_new_tokens": 3},
        "tokens_per_batch": 900,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (known | changes).items() if v is not None}))
    return resolve_sweep(path)


def small_job(session: Session, loaded: LoadedModel, folder: Path, **changes: Any) -> SweepJob:
    """That sweep, ready to run."""
    return prepare_sweep(session, loaded, write_sweep(folder, **changes))


def small_grid(
    session: Session,
    loaded: LoadedModel,
    folder: Path,
    *,
    options: GridOptions | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> GridResult:
    """That sweep, run."""
    return run_grid(small_job(session, loaded, folder, **changes), options or GridOptions(), progress=progress)


def stored_answers_of(session: Session, sweep_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Every stored answer of one sweep by cell and sample."""
    rows = session.sql("select * from answers where sweep_id = $sweep", sweep=sweep_id).to_arrow_table().to_pylist()
    return {(r["cell_id"], r["sample_id"]): r for r in rows}
