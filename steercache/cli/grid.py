"""`steercache grid`: a sweep run exactly, or raced; the chosen cell held to the test split."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from steercache.cells.sweep import prepare_sweep, sweep_model
from steercache.cli.options import among, device_options, json_option, mode_options, root_option
from steercache.cli.output import at_root, next_commands, note, print_json, progress_bar
from steercache.cli.sweep_tables import print_cells, print_maps, print_notes, print_splits, sweep_json
from steercache.core.errors import PartlyFailedError, UsageError
from steercache.core.ids import SHORT_ID
from steercache.manifests.resolve import ResolvedSweep, resolve_sweep
from steercache.manifests.sweep import Race
from steercache.queries.session import open_session
from steercache.screening.job import screening_for_grid
from steercache.screening.pilot import ScreenFirst, screen_first_of
from steercache.sweeps.evaluation.nulls import NULL_KINDS
from steercache.sweeps.grid.run import GridOptions, GridResult, run_grid


@click.command()
@click.argument("sweep")
@click.option("--race/--no-race", default=None, help="Stop cells early; by default as the manifest says.")
@click.option("--tolerance", type=click.FloatRange(0, 1, max_open=True), help="Of a race: how far below the best.")
@click.option(
    "--screen-first", metavar="K", type=click.IntRange(1), help="Run only the K best predicted cells of each vector."
)
@click.option(
    "--pilot",
    metavar="M",
    type=click.IntRange(0),
    help="Questions answered exactly so that predictions bend; by default 40, at most a third. 0: straight lines.",
)
@click.option(
    "--by",
    type=click.Choice(["margin", "accuracy"]),
    help="Best predicted at what; by default the margin, and right answers before a race.",
)
@click.option(
    "--nulls",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Null directions per vector that get the same search: their best gains say what the vector's is worth.",
)
@click.option("--null-kinds", default=",".join(NULL_KINDS), show_default=True, help="Separated by commas.")
@click.option(
    "--damage/--no-damage",
    default=True,
    show_default=True,
    help="Measure what the chosen cells do to unrelated prompts (KL from the unsteered next token).",
)
@mode_options
@click.option("--no-test", is_flag=True, help="Leave the test split alone.")
@click.option("--memory", "memory_mib", metavar="MIB", type=click.IntRange(1), help="Beside the model's weights.")
@click.option("--tokens-per-batch", type=click.IntRange(1), help="Padded tokens of one unsteered forward.")
@click.option("--cells", "n_shown", type=click.IntRange(1), default=10, show_default=True, help="Rows of the table.")
@root_option
@device_options
@json_option
def grid(sweep: str, root: Path, **asked: Any) -> GridResult:
    """Run SWEEP (a sweep manifest, by name or file): every cell on the search split, the chosen ones on the test split.

    Safe to kill: answers are kept as they come, and asked again only where none is. Cells are shared between sweeps.

    \b
    steercache grid tiny-scenes --no-test
    steercache grid demo-scenes --race --screen-first 12
    """
    resolved = _with_options(resolve_sweep(sweep, search=(Path(),)), asked)
    options = _grid_options(resolved, asked)  # what is asked for wrongly is said before the model is loaded
    session = open_session(root)
    loaded = sweep_model(resolved, root).load(root, device=asked["device"], dtype=asked["dtype"])
    with progress_bar("reading questions", total=None, unit="", quiet=asked["as_json"]) as bar:
        job = prepare_sweep(session, loaded, resolved, progress=bar.show)
        found = run_grid(job, options, screening=screening_for_grid(progress=bar.show), progress=bar.show)
    if asked["as_json"]:
        tasks = [sweep_json(task) for task in found.tasks]
        print_json({"sweep": found.sweep, "model": found.model, "tasks": tasks, "seconds": found.seconds})
    else:
        _print(found, n_shown=asked["n_shown"])
        first = found.tasks[0]
        where = at_root(root)
        next_commands(
            f"steercache query \"select * from trials where sweep_id = '{first.sweep_id}'\"{where}",
            f"steercache vectors show {str(first.choices[0].vector_id)[:SHORT_ID]}{where}",
        )
    failures = [failure for task in found.tasks for failure in task.failures]
    if failures:
        n_samples = sum(n for task in found.tasks for n in task.n_samples.values())
        raise PartlyFailedError(
            f"{len(failures)} of {n_samples} samples failed; the first: {failures[0].error}",
            hint="mend these rows, or report the table with their number",
        )
    return found


def _print(found: GridResult, *, n_shown: int) -> None:
    """All tables of a sweep."""
    for task in found.tasks:
        print_maps(task.table)
        print_cells(task.table, n_shown)
        print_splits(task.table)
        print_notes(task)
        click.echo()
    note(f"{found.seconds:.1f} s")


def _with_options(resolved: ResolvedSweep, asked: dict[str, Any]) -> ResolvedSweep:
    """The sweep with what the command line says otherwise."""
    changes = {name: asked[name] for name in ("memory_mib", "tokens_per_batch") if asked[name] is not None}
    if asked["no_test"]:
        changes["splits"] = ("search",)
    return ResolvedSweep(
        sweep=resolved.sweep.model_copy(update=changes), base_dir=resolved.base_dir, model=resolved.model
    )


def _grid_options(resolved: ResolvedSweep, asked: dict[str, Any]) -> GridOptions:
    return GridOptions(
        race=_race(resolved, asked),
        screen_first=_screen_first(resolved, asked),
        null_kinds=among(asked["null_kinds"], NULL_KINDS, "kind of null"),
        **{name: asked[name] for name in ("nulls", "damage", "mode", "recalibrate")},
    )


def _race(resolved: ResolvedSweep, asked: dict[str, Any]) -> Race | None:
    rules = resolved.sweep.race
    wanted = rules is not None if asked["race"] is None else asked["race"]
    if not wanted:
        return None
    rules = rules or Race()
    return rules if asked["tolerance"] is None else rules.model_copy(update={"tolerance": asked["tolerance"]})


def _screen_first(resolved: ResolvedSweep, asked: dict[str, Any]) -> ScreenFirst | None:
    """As the manifest says, but for what the command line says otherwise."""
    said = {"k": asked["screen_first"], "pilot": asked["pilot"], "by": asked["by"]}
    changes = {name: value for name, value in said.items() if value is not None}
    written = screen_first_of(resolved.sweep)
    if written is None and "k" not in changes:
        if changes:
            raise UsageError("--pilot and --by are about cells that are screened", hint="--screen-first 12")
        return None
    return ScreenFirst(**changes) if written is None else replace(written, **changes)
