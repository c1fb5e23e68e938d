"""`steercache grid`: a sweep run exactly, or raced; the chosen cell held to the test split."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from steercache.cli.completion import complete_sweep_manifests
from steercache.cli.options import (
    among,
    device_options,
    engine_options,
    json_option,
    mixed_numerics_option,
    mode_options,
    root_option,
    takes,
)
from steercache.cli.output import at_root, next_commands, note, print_json, progress_bar
from steercache.cli.typed import typed_command
from steercache.core.errors import PartlyFailedError
from steercache.core.ids import SHORT_ID
from steercache.core.trials import NULL_KINDS

if TYPE_CHECKING:
    from steercache.api.engines import EngineName
    from steercache.sweeps.grid import GridResult


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCommandOptions:
    """Which sweep is run, and how, as typed; None leaves a choice to the manifest."""

    sweep: str
    race: bool | None
    tolerance: float | None
    screen_first: int | None
    pilot: int | None
    by: Literal["margin", "accuracy"] | None
    nulls: int
    null_kinds: str
    damage: bool
    panel: int
    mode: Literal["auto", "replay", "branch", "full"]
    recalibrate: bool
    no_test: bool
    memory_mib: int | None
    tokens_per_batch: int | None
    n_shown: int
    root: Path
    device: str
    dtype: str
    engine: "EngineName"
    workers: int
    address: str | None
    cpus_per_worker: float
    gpus_per_worker: float
    mixed_numerics: bool
    as_json: bool


@click.command()
@click.argument("sweep", shell_complete=complete_sweep_manifests)
@click.option(
    "--race/--no-race", default=None, help="Stop cells early that cannot win any more; by default as in the manifest."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1, max_open=True),
    help="Racing: by how much the accuracy of the winner may be below that of the best cell.",
)
@click.option(
    "--screen-first",
    metavar="K",
    type=click.IntRange(1),
    help="Run only the K cells of each vector with the best predictions.",
)
@click.option(
    "--pilot",
    metavar="M",
    type=click.IntRange(0),
    help="Number of questions answered exactly to correct the predictions; by default 40, at most a third; 0: no correction.",
)
@click.option(
    "--by",
    type=click.Choice(["margin", "accuracy"]),
    help="Rank cells by predicted answer margin or by predicted accuracy; by default margin, and accuracy before a race.",
)
@click.option(
    "--nulls",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of null directions per vector. Each gets the same search, and the vector's gain is ranked among theirs.",
)
@click.option(
    "--null-kinds",
    default=",".join(NULL_KINDS),
    show_default=True,
    help="Kinds of null directions, separated by commas.",
)
@click.option(
    "--damage/--no-damage",
    default=True,
    show_default=True,
    help="Measure damage: the KL divergence of the next-token distribution on unrelated prompts.",
)
@click.option(
    "--panel",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Measure side effects: ask N questions of each unrelated task in the chosen cells. The tasks are those under `panel` "
    "in the manifest; without any, the drawn scenes' tasks that the sweep does not ask.",
)
@mode_options
@click.option("--no-test", is_flag=True, help="Do not use the test split.")
@click.option(
    "--memory",
    "memory_mib",
    metavar="MIB",
    type=click.IntRange(1),
    help="Memory for activations, in MiB, in addition to the model's weights.",
)
@click.option(
    "--tokens-per-batch",
    type=click.IntRange(1),
    help="Largest batch of an unsteered forward pass, in tokens with padding.",
)
@click.option(
    "--cells", "n_shown", type=click.IntRange(1), default=10, show_default=True, help="Number of cells in the table."
)
@root_option
@device_options
@engine_options
@mixed_numerics_option
@json_option
@takes(GridCommandOptions)
def grid(asked: GridCommandOptions) -> None:
    """Run the cells of SWEEP, a sweep manifest by name or file: all on the search split, the chosen ones on the test split.

    Every answer is stored at once, and shared between sweeps. An interrupted grid is resumed by the same command.

    \b
    steercache grid tiny-scenes --no-test
    steercache grid demo-scenes --race --screen-first 12
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.reporting import record_command
    from steercache.cli.sweep_tables import sweep_json

    null_kinds = among(asked.null_kinds, NULL_KINDS, "kind of null")
    sweep = open_cache_at(asked.root).sweep(asked.sweep, device=asked.device, dtype=asked.dtype)
    with progress_bar("reading questions", total=None, unit="", quiet=asked.as_json) as bar:
        found = sweep.run(
            nulls=asked.nulls,
            null_kinds=null_kinds,
            race=asked.race,
            tolerance=asked.tolerance,
            screen_first=asked.screen_first,
            pilot=asked.pilot,
            by=asked.by,
            test=not asked.no_test,
            damage=asked.damage,
            panel=asked.panel,
            mode=asked.mode,
            recalibrate=asked.recalibrate,
            memory_mib=asked.memory_mib,
            tokens_per_batch=asked.tokens_per_batch,
            engine=asked.engine,
            workers=asked.workers,
            address=asked.address,
            cpus_per_worker=asked.cpus_per_worker,
            gpus_per_worker=asked.gpus_per_worker,
            mixed_numerics=asked.mixed_numerics,
            progress=bar.show,
            on_note=note,
        )
    record_command(open_cache_at(asked.root).session, [task.sweep_id for task in found.tasks], typed_command())
    if asked.as_json:
        tasks = [sweep_json(task) for task in found.tasks]
        print_json({"sweep": found.sweep, "model": found.model, "tasks": tasks, "seconds": found.seconds})
    else:
        _print(found, n_shown=asked.n_shown)
        first = found.tasks[0]
        where = at_root(asked.root)
        chosen = first.choices[0]
        next_commands(
            f"steercache query \"select * from trials where sweep_id = '{first.sweep_id}'\"{where}",
            f"steercache query \"select * from cell_parts where sweep_id = '{first.sweep_id}'\"{where}"
            if chosen.vectors
            else f"steercache vectors show {str(chosen.vector_id)[:SHORT_ID]}{where}",
        )
    failures = [failure for task in found.tasks for failure in task.failures]
    if failures:
        n_samples = sum(n for task in found.tasks for n in task.n_samples.values())
        raise PartlyFailedError(
            f"{len(failures)} of {n_samples} samples failed; the first: {failures[0].error}",
            hint="mend these rows, or report the table with their number",
        )


def _print(found: "GridResult", *, n_shown: int) -> None:
    """All tables of a sweep."""
    from steercache.cli.sweep_tables import print_cells, print_maps, print_notes, print_splits

    for task in found.tasks:
        print_maps(task.table)
        print_cells(task.table, n_shown)
        print_splits(task.table)
        print_notes(task)
        click.echo()
    note(f"{found.seconds:.1f} s")
