"""`steercache fit`: vectors for every layer from the cache, without a model."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from steercache.cli.completion import complete_concepts, complete_queries, complete_runs
from steercache.cli.fit_sae import fit_sae_command
from steercache.cli.options import RenamedOption, json_option, parse_bindings, root_option, takes
from steercache.cli.options import parse_layers as parse_layers
from steercache.cli.output import next_commands, note, print_json, progress_bar
from steercache.cli.vector_tables import describe_vector, print_best, print_layers, steer_command
from steercache.core.counts import counted
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.fitting import MethodName

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_SITE = "resid_post"
HEADS = "head_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """The options of `fit`."""

    concept: str | None
    all_concepts: bool
    query: str | None
    where: str | None
    pairs: tuple[str, ...]
    run: str | None
    site: str
    layers: str | None
    name: str | None
    no_diagnose: bool
    root: Path
    as_json: bool
    recipe: Literal["default", "paper"] = "default"
    seed: int = 0
    top: int | None = None


_recipe_option = click.option(
    "--recipe",
    type=click.Choice(["default", "paper"]),
    default="default",
    show_default=True,
    help="Way of fitting; paper: as in arXiv 2505.14071.",
)


def _seed_option(of: str) -> Callable[[F], F]:
    return click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help=f"Seed of {of}.")


def _fit_options(command: F, *, site: str = DEFAULT_SITE) -> F:
    """What all methods take."""
    for option in reversed(
        (
            click.option(
                "--concept",
                shell_complete=complete_concepts,
                help="Concept to fit: the value of the query's parameter `concept`.",
            ),
            click.option("--all-concepts", is_flag=True, help="One vector per concept that the run has labels for."),
            click.option(
                "--query",
                shell_complete=complete_queries,
                help="Named selection, or SQL.  [default: anchor_vs_control; contrast_last where a run has only pairs]",
            ),
            click.option(
                "--where",
                metavar="SQL",
                help="Keep the rows whose tokens meet a condition, as --target of steer: \"kind = 'text' and from_end < 5\".",
            ),
            click.option(
                "-p", "pairs", multiple=True, metavar="NAME=VALUE", help="Value of a query's parameter; repeatable."
            ),
            click.option(
                "--run",
                shell_complete=complete_runs,
                help="Run by name, id or prefix; by default the newest run with rows of the query.",
            ),
            click.option("--site", default=site, show_default=True, help="Site of the rows, such as resid_post."),
            click.option(
                "--layer",
                "layers",
                cls=RenamedOption,
                former=["--layers"],
                help="Blocks to fit, such as 5,10,12-20; by default every block that the run keeps.",
            ),
            click.option("--name", help="Name to save under; by default the concept."),
            click.option("--no-diagnose", is_flag=True, help="Skip held-out scores and stability."),
            root_option,
            json_option,
        )
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True, no_args_is_help=True)
@click.option("--list", "as_list", is_flag=True, help="List the methods with formula, source and command.")
@json_option
@click.pass_context
def fit(context: click.Context, as_list: bool, as_json: bool) -> None:
    """Fit steering vectors for every layer from the cache; no model is loaded.

    \b
    steercache fit mean-shift --all-concepts
    steercache fit --list
    """
    if as_list:
        from steercache.cli.fit_list import list_methods

        list_methods(as_json=as_json)
        context.exit()
    if context.invoked_subcommand is None:
        raise UsageError("no method was named", hint="steercache fit --list")


fit.add_command(fit_sae_command)


@fit.command("mean-shift")
@_fit_options
@_recipe_option
@takes(FitOptions)
def mean_shift_command(asked: FitOptions) -> None:
    """Fit the mean of the concept's rows minus the mean of the other rows.

    \b
    steercache fit mean-shift --concept counting
    steercache fit mean-shift --all-concepts --recipe paper
    """
    _run("mean_shift", asked)


@fit.command("probe")
@_fit_options
@_recipe_option
@_seed_option("the SGD of the recipe `paper`")
@takes(FitOptions)
def probe_command(asked: FitOptions) -> None:
    """Fit the direction of a logistic regression, of unit norm.

    \b
    steercache fit probe --concept counting
    steercache fit probe --concept counting --recipe paper --seed 1
    """
    _run("linear_probe", asked)


@fit.command("pca-diff")
@_fit_options
@takes(FitOptions)
def pca_diff_command(asked: FitOptions) -> None:
    """Fit the first principal component of the differences within pairs, their mean taken away (repeng).

    \b
    steercache fit pca-diff --concept counting
    """
    _run("pca_diff", asked)


@fit.command("pca-center")
@_fit_options
@takes(FitOptions)
def pca_center_command(asked: FitOptions) -> None:
    """Fit the first principal component of rows around the middle of their pair (repeng, steering-vectors).

    \b
    steercache fit pca-center --concept counting
    """
    _run("pca_center", asked)


@fit.command("lat")
@_fit_options
@_seed_option("the order within pairs")
@takes(FitOptions)
def lat_command(asked: FitOptions) -> None:
    """Fit a reading vector: the first principal component of differences with random signs (arXiv 2310.01405).

    \b
    steercache fit lat --concept counting --seed 1
    """
    _run("lat", asked)


@fit.command("lda")
@_fit_options
@takes(FitOptions)
def lda_command(asked: FitOptions) -> None:
    """Fit a linear discriminant: the difference of means, whitened by the covariance inside the sides.

    \b
    steercache fit lda --concept counting
    """
    _run("lda", asked)


@fit.command("mass-mean")
@_fit_options
@takes(FitOptions)
def mass_mean_command(asked: FitOptions) -> None:
    """Fit a mass-mean probe: the difference of means times the pseudo-inverse of the covariance (arXiv 2310.06824).

    \b
    steercache fit mass-mean --concept counting
    """
    _run("mass_mean", asked)


@fit.command("head-probes")
@partial(_fit_options, site=HEADS)
@click.option("--top", type=click.IntRange(1), default=48, show_default=True, help="Heads to keep.")
@takes(FitOptions)
def head_probes_command(asked: FitOptions) -> None:
    """Fit directions at the attention heads that tell the sides apart best (inference-time intervention).

    \b
    steercache fit head-probes --concept counting --top 48
    """
    _run("head_probes", asked)


def _run(method: "MethodName", asked: FitOptions) -> None:
    from steercache.api.cache import open_cache_at

    if asked.name and asked.all_concepts:
        raise UsageError("--name goes with one concept", hint="leave it out: each vector is named after its concept")
    if asked.concept and asked.all_concepts:
        raise UsageError("--concept and --all-concepts exclude each other")
    layers = parse_layers(asked.layers)
    bindings = _bindings(asked, usual_site=HEADS if method == "head_probes" else DEFAULT_SITE)
    cache = open_cache_at(asked.root)
    with progress_bar("fitting", total=None, unit="vectors", quiet=asked.as_json) as bar:
        fitted = cache.fit(
            method,
            concept=asked.concept,
            all_concepts=asked.all_concepts,
            query=asked.query,
            where=asked.where,
            run=asked.run,
            site=asked.site,
            bindings=bindings,
            recipe=asked.recipe,
            layers=layers,
            name=asked.name,
            seed=asked.seed,
            top=asked.top,
            diagnose=not asked.no_diagnose,
            progress=bar.show,
        )
    if asked.run is None and "run" not in bindings:
        run_id = str(fitted[0].provenance["run_id"])
        note(f"run {cache.run(run_id).name} ({run_id[:SHORT_ID]})")
    for vector in fitted:
        n_rows = vector.provenance["rows"]["n"]
        note(
            f"{vector.name}: {n_rows:,} rows, {counted(len(vector.layers), 'layer')}, saved as {vector.vector_id[:SHORT_ID]}"
        )
    if asked.as_json:
        print_json([describe_vector(vector) for vector in fitted])
        return
    if len(fitted) == 1:
        print_layers(fitted[0])
    else:
        print_best(fitted)
    first = fitted[0]
    next_commands(f"steercache vectors show {shlex.quote(first.name)}", steer_command(first, asked.root))


def _bindings(asked: FitOptions, *, usual_site: str) -> dict[str, Any]:
    """Values of -p; run, site and concept have options of their own and may be given either way, once."""
    bindings = parse_bindings(asked.pairs, typed=asked.query is None or len(asked.query.split()) <= 1)
    for name, value, usual in (
        ("run", asked.run, None),
        ("site", asked.site, usual_site),
        ("concept", asked.concept, None),
    ):
        if name in bindings and value != usual:
            raise UsageError(f"the {name} is given twice", hint=f"either --{name} or -p {name}=...")
    return bindings
