"""Evaluating vectors on a benchmark: what `Cache.evaluate` does."""

from collections.abc import Sequence
from pathlib import Path

from steercache.answers.elsewhere import with_crew
from steercache.api.engines import HERE, Where, workers_for
from steercache.api.progress import ProgressLike, reporting
from steercache.benchmarks.task import default_targets as default_targets
from steercache.cache.handle import open_cache
from steercache.cells.combinations import NO_COMBINATIONS, Combinations
from steercache.cells.combinations import Steering as Steering
from steercache.cells.model import find_model
from steercache.cells.options import ComputeOptions as ComputeOptions
from steercache.cells.options import ControlOptions as ControlOptions
from steercache.cells.options import DecodingOptions as DecodingOptions
from steercache.cells.options import EvalOptions as EvalOptions
from steercache.cells.options import GridAxes as GridAxes
from steercache.cells.vectors import by_methods
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import BENCHMARKS, open_benchmark
from steercache.data.benchmarks.own import is_own_file
from steercache.data.benchmarks.questions import Benchmark
from steercache.manifests.sweep import SweepTask as SweepTask
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session, open_session
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.result import SweepResult

ModelLike = str | Path | LoadedModel
VectorLike = str | SteeringVector
BenchmarkLike = str | Path | Benchmark


def benchmark_names() -> tuple[str, ...]:
    """The benchmarks that can be named."""
    return tuple(BENCHMARKS)


def loaded_model(model: ModelLike, root: Path, *, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """The model in memory: loaded by name, or the given object. Raises NotFoundError, UsageError as `api.models.load`."""
    if isinstance(model, LoadedModel):
        return model
    return find_model(str(model), root).load(root, device=device, dtype=dtype)


def found_vectors(
    session: Session, vectors: Sequence[VectorLike], *, methods: Sequence[str] = ()
) -> list[SteeringVector]:
    """Vectors by name, id or prefix, or as they are, and the newest of the same concept and run by each of `methods`.

    Raises:
        NotFoundError: there is no such vector, or none by a method.
    """
    found = [session.vector(one) if isinstance(one, str) else one for one in vectors]
    return list(by_methods(session.cache, found, methods)) if methods else found


def opened_benchmark(
    benchmark: BenchmarkLike,
    *,
    folder: str | Path | None = None,
    task: str | None = None,
    rule: str = "grouped",
    form: str = "letter",
    limit: int | None = None,
) -> Benchmark:
    """A benchmark by name (from the hub, or from `folder`), a file of own questions, or the given object.

    Raises:
        UsageError, NotFoundError, ManifestError: as `open_benchmark`.
    """
    if isinstance(benchmark, Benchmark):
        return benchmark
    place = None if folder is None else Path(folder)
    return open_benchmark(str(benchmark), place, task=task, rule=rule, form=form, limit=limit)  # type: ignore[arg-type]


def panel_tasks(names: Sequence[str | SweepTask]) -> tuple[SweepTask, ...]:
    """Unrelated tasks as they are named: a benchmark, BENCHMARK:TASK, a file of questions, or FILE:TASK.

    >>> panel_tasks(["scenes:Relation"])[0].task
    'Relation'

    Raises:
        UsageError: a text that names no benchmark or file.
    """
    return tuple(_panel_task(name) if isinstance(name, str) else name for name in names)


def _panel_task(name: str) -> SweepTask:
    benchmark, _, task = name.partition(":") if not is_own_file(name) else (name, "", "")
    try:
        return SweepTask(benchmark=benchmark, task=task or None)
    except ValueError as error:
        raise UsageError(
            f"{name!r} names no task", hint="such as scenes:Relation, or a file of questions: questions.jsonl"
        ) from error


def evaluate_vectors(
    session: Session,
    model: ModelLike,
    benchmark: BenchmarkLike,
    *,
    vectors: Sequence[VectorLike],
    options: EvalOptions,
    combinations: Combinations = NO_COMBINATIONS,
    methods: Sequence[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    where: Where = HERE,
    progress: ProgressLike = None,
) -> SweepResult:
    """Answer a benchmark unsteered, prompted, steered and under controls; see `Cache.evaluate`."""
    directions = found_vectors(session, vectors, methods=methods)
    questions = opened_benchmark(benchmark)
    loaded = loaded_model(model, session.cache.root, device=device, dtype=dtype)
    with (
        reporting(progress) as show,
        workers_for(loaded, model, session.cache.root, where, device=device, dtype=dtype) as crew,
    ):
        return evaluate(
            session,
            loaded,
            questions,
            vectors=directions,
            options=with_crew(options, crew),
            combinations=combinations,
            progress=show,
        )


def evaluate_at(
    root: Path,
    model: str,
    benchmark: BenchmarkLike,
    *,
    vectors: Sequence[SteeringVector],
    options: EvalOptions,
    combinations: Combinations = NO_COMBINATIONS,
    device: str = "auto",
    dtype: str = "auto",
    where: Where = HERE,
    progress: ProgressLike = None,
) -> SweepResult:
    """As `Cache.evaluate`, into the cache at `root`, which is made where there is none once questions and model are known to
    be right: answers need a place, and an evaluation without vectors needs nothing else of a cache.
    """
    questions = opened_benchmark(benchmark)
    loaded = loaded_model(model, root, device=device, dtype=dtype)
    open_cache(root, create=True)
    with (
        reporting(progress) as show,
        workers_for(loaded, model, root, where, device=device, dtype=dtype) as crew,
    ):
        return evaluate(
            open_session(root),
            loaded,
            questions,
            vectors=vectors,
            options=with_crew(options, crew),
            combinations=combinations,
            progress=show,
        )
