"""Grids that were run whole, with the gradients that predict them: what the benches of screening and of shortcuts look at.

Questions of relations, image tokens. *fitted*: the mean shift of spatial words on SmolLM2's cached sentences. *planted*: at
every layer the mean gradient of the answer margin over other questions, so that its gain in margin is real by design (on
questions for a count it was not: 384 of them made a vector that harms at a fifth of a norm). Both are brought to the median
norm of the steered rows, which strengths count in. An answer is one token.
"""

import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.cells import (
    Grid,
    Questions,
    in_norms,
    layers_of,
    make_grid,
    open_model,
    questions,
    random_vector,
    row_norms,
    run_exactly,
)
from steercache.answers.store import StoredAnswer
from steercache.cache.handle import open_cache
from steercache.fit import mean_shift
from steercache.manifests.load import find_manifest
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session, open_session
from steercache.runs.engine import build_run
from steercache.runs.job import prepare_trace
from steercache.runs.plan import plan_run
from steercache.screening.gradient_plan import GradientRequest
from steercache.screening.gradient_source import GradientSource, ensure_gradients
from steercache.screening.gradient_store import StoredGradients
from steercache.steering.screen import answer_gradients
from steercache.sweeps.finished_grid import FinishedGrid
from steercache.sweeps.shortcuts_job import finished_grid

RUN, CONCEPT, QUERY = "smollm2-concepts", "spatial_relationship", "anchor_vs_control"
N_PLANTING = 128


@dataclass(frozen=True, kw_only=True)
class Whole:
    """One vector's grid, answered and predicted, with the seconds that each took."""

    name: str
    grid: Grid
    finished: FinishedGrid = field(repr=False)
    exact_s: float
    gradients_s: float


def fitted_directions(loaded: LoadedModel, session: Session) -> np.ndarray[Any, Any]:
    """The mean shift of a concept on the text backbone, at the grid's layers (l, d); traced first where the cache lacks it."""
    prepared = prepare_trace(find_manifest(RUN, kind="trace"), cache_root=session.cache.root, device="cpu")
    build_run(session.cache, plan_run(prepared.job, cache=session.cache), prepared)
    vector = mean_shift(session.select(QUERY, run=RUN, concept=CONCEPT), layers=layers_of(loaded))
    return np.stack([vector.at(layer) for layer in layers_of(loaded)])


def planted_directions(loaded: LoadedModel, session: Session, others: Questions) -> np.ndarray[Any, Any]:
    """The mean gradient of the answer margin over questions that the grid is not asked, (l, d)."""
    screen = gradients_of(loaded, session, others).screen("image")
    return np.stack([answer_gradients(screen, layer).mean(axis=0) for layer in layers_of(loaded)])


def gradients_of(loaded: LoadedModel, session: Session, asked: Questions) -> StoredGradients:
    """Gradients on image tokens at the grid's layers, recorded into the cache."""
    wish = GradientRequest(benchmark="scenes", layers=layers_of(loaded), targets=("image",))
    wanted = GradientSource(bundle=loaded.bundle, load=lambda: loaded, device="cpu")
    return ensure_gradients(session, asked.asked, wish, wanted)


@functools.cache
def whole_grid(kind: str, model: str, n: int) -> Whole:
    """The grid `kind` ("fitted", "planted", or "random", which needs no other model) over `n` questions. Run once a process.

    In float32: a margin in bfloat16 moves in steps of an eighth, more than a weak vector does.
    """
    work = Path(tempfile.mkdtemp(prefix="bench-whole-"))
    try:
        loaded = open_model(model, work / "root", dtype="float32")
        open_cache(work / "root", create=True)
        session = open_session(work / "root")
        asked = questions(loaded, "Relation", n=n)
        norms = row_norms(loaded, asked.asked, "image")
        if kind == "random":
            vector = random_vector(loaded, norms)
        elif kind == "planted":
            others = questions(loaded, "Relation", n=min(N_PLANTING, n), skip=n)
            vector = in_norms(kind, planted_directions(loaded, session, others), norms, loaded, method="gradient")
        else:
            vector = in_norms(kind, fitted_directions(loaded, session), norms, loaded, method="mean_shift")
        grid = make_grid(loaded, vector, "image", max_new_tokens=1)
        print(f"  {kind}: {len(grid.settings)} cells x {n} questions ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        found = run_exactly(session, loaded, asked.asked, grid)
        exact_s = time.perf_counter() - start
        start = time.perf_counter()
        gradients = gradients_of(loaded, session, asked)
        gradients_s = time.perf_counter() - start
        known: Mapping[Any, StoredAnswer] = {
            k: StoredAnswer(raw=a.raw or "", margin=a.margin) for k, a in found.answers.items()
        }
        finished = finished_grid(gradients, grid.arm, grid.settings, grid.baseline.cell.cell_id, known)
        return Whole(name=kind, grid=grid, finished=finished, exact_s=exact_s, gradients_s=gradients_s)
    finally:
        shutil.rmtree(work)
