"""`steercache screen`: every cell of a grid predicted from stored gradients, without running it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from steercache.cli.options import (
    device_options,
    json_option,
    parse_alphas,
    parse_layers,
    question_options,
    root_option,
    rule_option,
    takes,
    targets_among,
    unit_option,
)
from steercache.cli.output import at_root, next_commands, print_json, progress_bar
from steercache.cli.screen_options import feature_options
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID
from steercache.core.trials import TRUST, AlphaUnit

if TYPE_CHECKING:
    from steercache.api.cache import Cache
    from steercache.api.progress import ProgressCallback
    from steercache.api.screening import ScreenedTask


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenOptions:
    """Which cells are predicted, and what is shown of them, as typed."""

    words: tuple[str, ...]
    names: tuple[str, ...]
    all_vectors: bool
    layers: str | None
    alphas: str
    unit: AlphaUnit
    targets: str | None
    task: str | None
    form: Literal["letter", "number", "word"]
    folder: Path | None
    rule: Literal["grouped", "paper"]
    n: int | None
    allow_foreign: bool
    by: Literal["margin", "accuracy"]
    top: int
    n_samples: int | None
    nulls: int | None
    trust: float
    run: str | None
    force: bool
    seed: int
    compare: bool
    share: float
    pilot: int | None
    resamples: int
    sae: str | None
    step: float
    concept: str | None
    exact: int
    live: str | None
    root: Path
    device: str
    dtype: str
    as_json: bool


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="SWEEP | MODEL BENCHMARK | MODEL FILE")
@click.option("--vector", "names", multiple=True, help="Vector by name, id or prefix; may be repeated.")
@click.option("--all-vectors", is_flag=True, help="Predict every vector of the cache that fits the model.")
@click.option("--layer", "layers", help="Blocks, such as 5,8-10; by default those that every vector has.")
@click.option("--alpha", "alphas", default="1", show_default=True, help="Strength, or several: 0.5,1,2.")
@unit_option
@click.option("--target", "targets", help="image, text, both, all or last; several; or SQL. By default as in eval.")
@question_options
@rule_option
@click.option("--n", type=click.IntRange(1), help="Number of questions of the search split; by default all.")
@click.option("--allow-foreign", is_flag=True, help="Accept vectors that were fitted on other or unknown weights.")
@click.option(
    "--by",
    type=click.Choice(["margin", "accuracy"]),
    default="margin",
    show_default=True,
    help="Rank cells by predicted answer margin or by predicted accuracy.",
)
@click.option(
    "--top", type=click.IntRange(1), default=10, show_default=True, help="Number of cells and vectors in the tables."
)
@click.option(
    "--samples",
    "n_samples",
    type=click.IntRange(1),
    help="Number of samples to list that the best cell helps most, and hurts most.",
)
@click.option(
    "--nulls", type=click.IntRange(1), help="Number of covariance-matched directions among which each vector is ranked."
)
@click.option(
    "--trust",
    type=click.FloatRange(0, min_open=True),
    default=TRUST,
    show_default=True,
    help="Largest strength at which a prediction is taken, in median norms of the steered rows.",
)
@click.option(
    "--gradients", "run", help="Gradient run to use, by name, id or prefix; refused if it has other weights or prompts."
)
@click.option(
    "--force",
    is_flag=True,
    help="Resume a gradient run that was started on a machine with other numerics; the run records both.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of null directions and resamples."
)
@click.option(
    "--compare",
    is_flag=True,
    help="Compare screening, pilot and racing with the exhaustive answers of SWEEP, which the cache must hold.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="With --compare: share of the cells that are run exactly.",
)
@click.option(
    "--pilot",
    metavar="M",
    type=click.IntRange(0),
    help="For a SWEEP: number of questions that are answered exactly to correct the predictions, such as 40.",
)
@click.option(
    "--resamples",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="With --compare: number of resamples of the search split.",
)
@feature_options
@root_option
@device_options
@json_option
@takes(ScreenOptions)
def screen(asked: ScreenOptions) -> None:
    """Predict the effect of every vector at every layer and strength from gradients.

    SWEEP is a sweep manifest; or name MODEL and BENCHMARK with --vector, --layer and --alpha. The first screening of a
    benchmark records a gradient run over the search split (an interrupted one is resumed); later ones load no model. A
    prediction is linear in the strength and good for small ones; for strengths above --trust median norms of the
    steered rows it is held constant. --pilot 40 answers 40 questions exactly and corrects the predictions, as `grid
    --screen-first` does. The test split is used by --exact alone.

    With --sae every feature of an SAE is predicted instead of vectors: its decoder row added or subtracted with the
    strength --step. --exact runs the best ones, beside random live features at the same strengths, on the test split.

    \b
    steercache screen tiny-scenes
    steercache screen demo-scenes --pilot 40
    steercache screen tiny scenes --task Count --form number --vector counting --layer 1-4 --alpha 2,4,8 --nulls 1000
    steercache screen tiny scenes --task Relation --all-vectors --samples 3
    steercache screen tiny-scenes --compare
    steercache screen demo scenes --task Count --sae my-sae --exact 10
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.screening import helped_and_hurt, rank_among_nulls
    from steercache.cli.screen_tables import as_json, print_screened

    if len(asked.words) > 2:
        raise UsageError(f"{len(asked.words)} words: SWEEP, or MODEL and BENCHMARK", hint="steercache screen --help")
    cache = open_cache_at(asked.root)
    _check_features(asked)
    if asked.compare:
        _compare(cache, asked)
        return
    if asked.sae is not None:
        from steercache.cli.screen_features import show_features

        show_features(cache, asked, asked.sae)
        return
    with progress_bar("reading questions", total=None, unit="", quiet=asked.as_json) as bar:
        screened = (_of_sweep if len(asked.words) == 1 else _of_benchmark)(cache, asked, bar.show)
        top, by = asked.top, asked.by
        found = [
            (
                one,
                helped_and_hurt(one, n=asked.n_samples, n_vectors=top, by=by) if asked.n_samples else {},
                rank_among_nulls(cache.session, one, nulls=asked.nulls, n_vectors=top, by=by, seed=asked.seed)
                if asked.nulls
                else (),
            )
            for one in screened
        ]
    if asked.as_json:
        print_json({"model": screened[0].model, "tasks": [as_json(*one, by=by, n=top) for one in found]})
        return
    for one in found:
        print_screened(*one, by=by, n=top)
    where = at_root(asked.root)
    run = screened[0].run_id[:SHORT_ID]
    first = [f"steercache grid {asked.words[0]} --screen-first {top}{where}"] if len(asked.words) == 1 else []
    next_commands(*first, f"steercache query \"select * from gradients where run_id like '{run}%'\"{where}")


def _check_features(asked: ScreenOptions) -> None:
    if asked.sae is None and (asked.exact or asked.live or asked.concept):
        raise UsageError("--exact, --live and --concept are about features of an SAE", hint="--sae NAME")
    if asked.sae is not None and (asked.compare or asked.pilot or asked.nulls or asked.n_samples):
        raise UsageError("--compare, --pilot, --nulls and --samples are about vectors, not about features of an SAE")


def _compare(cache: "Cache", asked: ScreenOptions) -> None:
    """The answer to what replaces the grid search, for one sweep."""
    from steercache.api.screening import ShortcutOptions
    from steercache.cli.screen_compare import compared_json, print_compared

    if len(asked.words) != 1:
        raise UsageError("--compare reads the answers of a sweep", hint="steercache screen SWEEP --compare")
    _check_sweep(asked)
    options = ShortcutOptions(
        share=asked.share, pilot=asked.pilot, trust=asked.trust, n_resamples=asked.resamples, seed=asked.seed
    )
    sweep = cache.sweep(asked.words[0], device=asked.device, dtype=asked.dtype)
    with progress_bar("reading questions", total=None, unit="", quiet=asked.as_json) as bar:
        found = sweep.compare_shortcuts(options, gradients=asked.run, force=asked.force, progress=bar.show)
    if asked.as_json:
        print_json({"model": found[0].model, "compared": compared_json(found)})
        return
    print_compared(found, options)
    next_commands(f"steercache query what_replaces_the_grid -p sweep={found[0].sweep_id}{at_root(asked.root)}")


def _of_sweep(cache: "Cache", asked: ScreenOptions, progress: "ProgressCallback") -> "list[ScreenedTask]":
    _check_sweep(asked)
    sweep = cache.sweep(asked.words[0], device=asked.device, dtype=asked.dtype)
    return sweep.screen(
        pilot=asked.pilot or 0, trust=asked.trust, gradients=asked.run, force=asked.force, progress=progress
    )


def _check_sweep(asked: ScreenOptions) -> None:
    if asked.names or asked.all_vectors:
        raise UsageError("a sweep names its own vectors", hint="steercache screen MODEL BENCHMARK --vector NAME")


def _of_benchmark(cache: "Cache", asked: ScreenOptions, progress: "ProgressCallback") -> "list[ScreenedTask]":
    if asked.pilot:
        raise UsageError("a pilot runs cells of a sweep", hint="steercache screen SWEEP --pilot 40")
    model, benchmark = asked.words
    found = cache.screen(
        model,
        benchmark,
        vectors=asked.names,
        all_vectors=asked.all_vectors,
        layers=parse_layers(asked.layers) or (),
        alphas=parse_alphas(asked.alphas, example="0.5,1,2"),
        targets=None if asked.targets is None else targets_among(asked.targets),
        alpha_unit=asked.unit,
        n=asked.n,
        allow_foreign=asked.allow_foreign,
        trust=asked.trust,
        gradients=asked.run,
        force=asked.force,
        device=asked.device,
        dtype=asked.dtype,
        task=asked.task,
        rule=asked.rule,
        form=asked.form,
        folder=asked.folder,
        progress=progress,
    )
    return [found]
