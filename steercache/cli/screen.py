"""`steercache screen`: every cell of a grid predicted from stored gradients, without running it."""

from pathlib import Path
from typing import Any

import click

from steercache.benchmarks.task import Progress, default_targets
from steercache.cells.arms import EvalOptions
from steercache.cells.model import find_model
from steercache.cells.sweep import SweepJob, sweep_model
from steercache.cli.fit import parse_layers
from steercache.cli.options import (
    device_options,
    json_option,
    question_options,
    root_option,
    rule_option,
    unit_option,
)
from steercache.cli.output import at_root, next_commands, print_json, progress_bar
from steercache.cli.screen_compare import compared_json, print_compared
from steercache.cli.screen_tables import as_json, print_screened
from steercache.core.errors import UsageError
from steercache.core.trials import Target
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.manifests.resolve import resolve_sweep
from steercache.queries.session import Session, open_session
from steercache.screening.job import (
    ScreenedTask,
    ScreenTask,
    corrected_by_pilot,
    effects_of_best,
    fitting_vectors,
    gradient_source,
    ranks_of_best,
    screen_task,
    sweep_job,
    task_of_benchmark,
    tasks_of_sweep,
)
from steercache.screening.predict import TRUST, GradientSource
from steercache.sweeps.grid.shortcuts import ShortcutOptions
from steercache.sweeps.grid.shortcuts_job import compare_sweep

_TARGETS = ("image", "text", "both", "all", "last")


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="SWEEP | MODEL BENCHMARK | MODEL FILE")
@click.option("--vector", "names", multiple=True, help="Vector by name, id or prefix; may be repeated.")
@click.option("--all-vectors", is_flag=True, help="Every vector of the cache that fits the model.")
@click.option("--layer", "layers", help="Blocks: 5,8-10; by default all that every vector has.")
@click.option("--alpha", "alphas", default="1", show_default=True, help="Strength, or several: 0.5,1,2.")
@unit_option
@click.option("--target", "targets", help="image, text, both, all or last; or several. By default as in eval.")
@question_options
@rule_option
@click.option("--n", type=click.IntRange(1), help="Questions of the search split; all by default.")
@click.option("--allow-foreign", is_flag=True, help="Take vectors of other or unknown lineage.")
@click.option(
    "--by", type=click.Choice(["margin", "accuracy"]), default="margin", show_default=True, help="Best at what."
)
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Cells and vectors shown.")
@click.option("--samples", "n_samples", type=click.IntRange(1), help="Name so many samples that are helped, and hurt.")
@click.option("--nulls", type=click.IntRange(1), help="Rank each vector among so many covariance-matched directions.")
@click.option(
    "--trust", type=click.FloatRange(0, min_open=True), default=TRUST, show_default=True, help="Median norms."
)
@click.option("--gradients", "run", help="The gradient run to use; refused if it is of other weights or prompts.")
@click.option("--force", is_flag=True, help="Go on recording under other numerics than it began with; recorded.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of null directions and resamples.")
@click.option("--compare", is_flag=True, help="What replaces the grid: from the answers of SWEEP, run exhaustively.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.1, show_default=True, help="Cells run.")
@click.option(
    "--pilot",
    metavar="M",
    type=click.IntRange(0),
    help="Of a SWEEP: questions answered exactly so that predictions bend, 40 say. None unless with --compare.",
)
@click.option("--resamples", type=click.IntRange(1), default=200, show_default=True, help="Of the search split.")
@root_option
@device_options
@json_option
def screen(words: tuple[str, ...], root: Path, **asked: Any) -> None:
    """Predict what every vector does at every layer and strength, without running it.

    SWEEP is a sweep manifest; or name MODEL and BENCHMARK with --vector, --layer and --alpha. What is needed once is a
    gradient run over the search split: it is recorded if the cache has none (safe to kill, resumes), and from then on no model
    is loaded. Predictions are straight lines, good for weak strengths, and beyond --trust median norms of the steered rows no
    more is promised than there. At half a norm damage may be as large: --pilot 40 answers a few questions exactly, as `grid
    --screen-first` does, and bends the lines by them. The test split is never looked at.

    \b
    steercache screen tiny-scenes
    steercache screen demo-scenes --pilot 40
    steercache screen tiny scenes --task Count --form number --vector counting --layer 1-4 --alpha 2,4,8 --nulls 1000
    steercache screen tiny scenes --task Relation --all-vectors --samples 3
    steercache screen tiny-scenes --compare
    """
    if len(words) > 2:
        raise UsageError(f"{len(words)} words: SWEEP, or MODEL and BENCHMARK", hint="steercache screen --help")
    session = open_session(root)
    if asked["compare"]:
        _compare(session, words, asked)
        return
    with progress_bar("reading questions", total=None, unit="", quiet=asked["as_json"]) as bar:
        tasks, wanted, job = (_job_of_sweep if len(words) == 1 else _of_benchmark)(session, words, asked, bar.show)
        screened = [screen_task(session, task, wanted, trust=asked["trust"], progress=bar.show) for task in tasks]
        if asked["pilot"] and job is not None:
            screened = [
                corrected_by_pilot(job, questions, one, wanted, n=asked["pilot"], progress=bar.show)
                for questions, one in zip(job.tasks, screened, strict=True)
            ]
        found = [(one, *_beside(session, one, asked)) for one in screened]
    if asked["as_json"]:
        print_json(
            {
                "model": wanted.bundle.spec.name,
                "tasks": [as_json(*one, by=asked["by"], n=asked["top"]) for one in found],
            }
        )
        return
    for one in found:
        print_screened(wanted.bundle.spec.name, *one, by=asked["by"], n=asked["top"])
    where = at_root(root)
    run = found[0][0].run_id[:12]
    first = [f"steercache grid {words[0]} --screen-first {asked['top']}{where}"] if len(words) == 1 else []
    next_commands(*first, f"steercache query \"select * from gradients where run_id like '{run}%'\"{where}")


def _compare(session: Session, words: tuple[str, ...], asked: dict[str, Any]) -> None:
    """The answer to what replaces the grid search, for one sweep."""
    if len(words) != 1:
        raise UsageError("--compare reads the answers of a sweep", hint="steercache screen SWEEP --compare")
    options = ShortcutOptions(
        share=asked["share"],
        pilot=asked["pilot"],
        trust=asked["trust"],
        n_resamples=asked["resamples"],
        seed=asked["seed"],
    )
    with progress_bar("reading questions", total=None, unit="", quiet=asked["as_json"]) as bar:
        _, wanted, job = _job_of_sweep(session, words, asked, bar.show)
        found = compare_sweep(job, wanted, options, progress=bar.show)
    if asked["as_json"]:
        print_json({"model": wanted.bundle.spec.name, "compared": compared_json(found)})
        return
    print_compared(found, options)
    where = at_root(session.cache.root)
    next_commands(f"steercache query what_replaces_the_grid -p sweep={found[0].sweep_id}{where}")


def _beside(session: Session, found: ScreenedTask, asked: dict[str, Any]) -> tuple[Any, Any]:
    """Samples of the best vectors, and their ranks among nulls, where they are asked for."""
    by, top, n, nulls = asked["by"], asked["top"], asked["n_samples"], asked["nulls"]
    effects = effects_of_best(found, n=n, n_vectors=top, by=by) if n else {}
    ranks = ranks_of_best(session, found, count=nulls, n=top, by=by, seed=asked["seed"]) if nulls else ()
    return effects, ranks


def _job_of_sweep(
    session: Session, words: tuple[str, ...], asked: dict[str, Any], progress: Progress
) -> tuple[tuple[ScreenTask, ...], GradientSource, SweepJob]:
    if asked["names"] or asked["all_vectors"]:
        raise UsageError("a sweep names its own vectors", hint="steercache screen MODEL BENCHMARK --vector NAME")
    resolved = resolve_sweep(words[0], search=(Path(),))
    root = session.cache.root
    wanted = _wanted(sweep_model(resolved, root), root, asked)
    job = sweep_job(session, resolved, wanted, progress=progress)
    return tasks_of_sweep(job), wanted, job


def _of_benchmark(
    session: Session, words: tuple[str, ...], asked: dict[str, Any], progress: Progress
) -> tuple[tuple[ScreenTask, ...], GradientSource, None]:
    model, benchmark = words
    if asked["pilot"]:
        raise UsageError("a pilot runs cells of a sweep", hint="steercache screen SWEEP --pilot 40")
    root, wide = session.cache.root, tuple(dict.fromkeys(parse_layers(asked["layers"]) or ()))
    vectors = [session.vector(name) for name in asked["names"]]
    questions = open_benchmark(
        benchmark, asked["folder"], task=asked["task"], rule=asked["rule"], form=asked["form"], limit=None
    )
    wanted = _wanted(find_model(model, root), root, asked)
    if asked["all_vectors"]:
        found, _ = fitting_vectors(session, wanted.bundle, layers=wide or None, allow_foreign=asked["allow_foreign"])
        vectors = list({v.vector_id: v for v in (*vectors, *found)}.values())
    if not vectors:
        raise UsageError("no vector to screen", hint="--vector NAME, or --all-vectors; steercache vectors list")
    options = EvalOptions(
        layers=wide or _common_layers(vectors),
        alphas=_numbers(asked["alphas"]),
        targets=default_targets(questions) if asked["targets"] is None else _targets(asked["targets"]),
        alpha_unit=asked["unit"],
        n=asked["n"],
        allow_foreign=asked["allow_foreign"],
    )
    return (task_of_benchmark(session, wanted, questions, vectors, options, progress=progress),), wanted, None


def _wanted(found: Any, root: Path, asked: dict[str, Any]) -> GradientSource:
    return gradient_source(
        found, root, device=asked["device"], dtype=asked["dtype"], run=asked["run"], force=asked["force"]
    )


def _common_layers(vectors: list[SteeringVector]) -> tuple[int, ...]:
    common = sorted(set.intersection(*({*v.layers} for v in vectors)))
    if not common:
        raise UsageError("these vectors have no layer in common", hint="--vector one at a time")
    return tuple(common)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(dict.fromkeys(float(word) for word in text.split(",")))
    except ValueError:
        raise UsageError(f"--alpha {text!r} is not a list of numbers", hint="--alpha 0.5,1,2") from None


def _targets(text: str) -> tuple[Target, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in _TARGETS]
    if unknown or not words:
        raise UsageError(f"no target named {', '.join(unknown) or text!r}", hint=f"choose of: {', '.join(_TARGETS)}")
    return tuple(dict.fromkeys(words))  # type: ignore[arg-type]
