"""Predicting cells from gradients: what `Cache.screen` and `Sweep.screen` do, and what is read off their results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steercache.api.evaluating import BenchmarkLike, VectorLike, found_vectors, opened_benchmark
from steercache.api.progress import ProgressLike, reporting
from steercache.benchmarks.task import default_targets
from steercache.cells.model import find_model
from steercache.cells.options import EvalOptions, GridAxes
from steercache.core.errors import UsageError
from steercache.core.trials import TRUST, AlphaUnit, Target
from steercache.core.vectors import SteeringVector
from steercache.queries.session import Session
from steercache.screening.job import ScreenedTask as ScreenedTask
from steercache.screening.job import (
    effects_of_best,
    fitting_vectors,
    gradient_source,
    ranks_of_best,
    screen_task,
    task_of_benchmark,
)
from steercache.screening.many import NullRank
from steercache.screening.predict import By, SampleEffect
from steercache.sweeps.finished_grid import MEASURES as MEASURES
from steercache.sweeps.finished_grid import ShortcutOptions as ShortcutOptions
from steercache.sweeps.shortcuts_job import ComparedShortcuts as ComparedShortcuts

Effects = Mapping[str, Mapping[str, tuple[SampleEffect, ...]]]
"""By vector, under "helped" and "hurt", the samples that its best cell moves most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenRequest:
    """Which cells are predicted: `vectors` (with `all_vectors` also every one of the cache that fits the model) at `layers`
    (none: all that every vector has), `alphas` and `targets` (None: as the questions have pictures or not). `n` questions of
    the search split (None: all). `gradients` names the gradient run; `force` resumes a gradient run under other numerics."""

    vectors: tuple[VectorLike, ...] = ()
    all_vectors: bool = False
    layers: tuple[int, ...] = ()
    alphas: tuple[float, ...] = (1.0,)
    targets: tuple[Target | str, ...] | None = None
    alpha_unit: AlphaUnit = "raw"
    n: int | None = None
    allow_foreign: bool = False
    trust: float = TRUST
    gradients: str | None = None
    force: bool = False


def screen_benchmark(
    session: Session,
    model: str,
    benchmark: BenchmarkLike,
    request: ScreenRequest,
    *,
    device: str = "auto",
    dtype: str = "auto",
    task: str | None = None,
    rule: str = "grouped",
    form: str = "letter",
    folder: Path | None = None,
    progress: ProgressLike = None,
) -> ScreenedTask:
    """Predict cells over a benchmark's search split; see `Cache.screen`."""
    root = session.cache.root
    vectors = found_vectors(session, request.vectors)
    questions = opened_benchmark(benchmark, folder=folder, task=task, rule=rule, form=form)
    source = gradient_source(
        find_model(model, root), root, device=device, dtype=dtype, run=request.gradients, force=request.force
    )
    layers = tuple(dict.fromkeys(request.layers))
    if request.all_vectors:
        fitting, _ = fitting_vectors(session, source.bundle, layers=layers or None, allow_foreign=request.allow_foreign)
        vectors = list({v.vector_id: v for v in (*vectors, *fitting)}.values())
    if not vectors:
        raise UsageError("no vector to screen", hint="name a vector, or screen all of the cache (`all_vectors`)")
    options = EvalOptions(
        axes=GridAxes(
            layers=layers or _common_layers(vectors),
            alphas=request.alphas,
            targets=default_targets(questions) if request.targets is None else request.targets,
            alpha_unit=request.alpha_unit,
        ),
        n=request.n,
        allow_foreign=request.allow_foreign,
    )
    with reporting(progress) as show:
        wanted = task_of_benchmark(session, source, questions, vectors, options, progress=show)
        return screen_task(session, wanted, source, trust=request.trust, progress=show)


def helped_and_hurt(screened: ScreenedTask, *, n: int, n_vectors: int = 10, by: By = "margin") -> Effects:
    """For the `n_vectors` best predicted vectors, the `n` samples that their best cell helps and hurts most."""
    return effects_of_best(screened, n=n, n_vectors=n_vectors, by=by)


def rank_among_nulls(
    session: Session, screened: ScreenedTask, *, nulls: int, n_vectors: int = 10, by: By = "margin", seed: int = 0
) -> tuple[NullRank, ...]:
    """Ranks of the `n_vectors` best predicted vectors among `nulls` directions with the covariance of their rows."""
    return ranks_of_best(session, screened, count=nulls, n=n_vectors, by=by, seed=seed)


def _common_layers(vectors: Sequence[SteeringVector]) -> tuple[int, ...]:
    common = sorted(set.intersection(*({*v.layers} for v in vectors)))
    if not common:
        raise UsageError("these vectors have no layer in common", hint="screen one vector at a time")
    return tuple(common)
