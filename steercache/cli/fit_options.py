"""What the commands of `steercache fit` share: their options, and what they print."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from steercache.cli.completion import complete_concepts, complete_queries, complete_runs
from steercache.cli.options import RenamedOption, json_option, parse_bindings, root_option
from steercache.cli.output import next_commands, note, print_json
from steercache.cli.vector_tables import describe_vector, print_best, print_layers, steer_commands
from steercache.core.counts import counted
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.cache import Cache
    from steercache.core.vectors import SteeringVector

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
    layers: str | None
    name: str | None
    no_diagnose: bool
    root: Path
    as_json: bool
    site: str = DEFAULT_SITE
    recipe: Literal["default", "paper"] = "default"
    seed: int = 0
    top: int | None = None


recipe_option = click.option(
    "--recipe",
    type=click.Choice(["default", "paper"]),
    default="default",
    show_default=True,
    help="Way of fitting; paper: as in arXiv 2505.14071.",
)


def seed_option(of: str) -> Callable[[F], F]:
    return click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help=f"Seed of {of}.")


def fit_options(command: F, *, site: str | None = DEFAULT_SITE) -> F:
    """What all methods take; `site` None leaves that option out."""
    sites = [click.option("--site", default=site, show_default=True, help="Site of the rows, such as resid_post.")]
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
            *(sites if site is not None else []),
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


def report_fitted(cache: "Cache", fitted: "list[SteeringVector]", asked: FitOptions) -> None:
    """Say what was fitted and saved, as tables or JSON, and what can be typed next."""
    if asked.run is None and not any(pair.startswith("run=") for pair in asked.pairs):
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
    next_commands(f"steercache vectors show {shlex.quote(first.name)}", *steer_commands(first, asked.root))


def fit_bindings(asked: FitOptions, *, usual_site: str) -> dict[str, Any]:
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
