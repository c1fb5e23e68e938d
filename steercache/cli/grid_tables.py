"""A grid at the terminal: gains by layer and strength, the best cells, and what was chosen."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import click

from steercache.cells.sweep import SweepGrid
from steercache.cli.clusters import clusters_line
from steercache.cli.output import note, print_table
from steercache.cli.screen_tables import pilot_note
from steercache.core.ids import SHORT_ID
from steercache.core.trials import Cell
from steercache.stats.paired import Interval
from steercache.sweeps.grid.run import GridResult, TaskResult
from steercache.sweeps.grid.table import GridChoice, GridRow

SHOWN = 5  # failures named at the terminal; --json has all


def print_grid(found: GridResult, grid: SweepGrid, *, n_shown: int) -> None:
    """All tables of a sweep."""
    for task in found.tasks:
        shares = ", ".join(
            f"{share:.3f} of {task.n_samples[split]}, {task.baseline_unread[split]:.1%} unread ({split})"
            for split, share in task.baseline.items()
        )
        click.secho(f"{found.model} on {task.name}: right unsteered {shares}", bold=True)
        click.echo()
        _print_maps(task, grid)
        _print_cells(task, n_shown)
        _print_choices(task)
        _print_notes(task)
        click.echo()
    note(f"{found.seconds:.1f} s")


def _print_maps(task: TaskResult, grid: SweepGrid) -> None:
    """Per vector and target: layers down, strengths across, gains in points; `*` chosen, brackets: dropped by a race.

    Layers and strengths of which no cell was run, as in a screened sweep, are left out.
    """
    chosen = {choice.cell.cell_id for choice in task.choices}
    options = grid.options
    for arm in grid.arms:
        for target in options.targets:
            own = {
                (r.cell.layer, r.cell.alpha): r for r in task.rows if (r.vector, r.cell.target) == (arm.name, target)
            }
            if not own:
                continue
            layers = [layer for layer in options.layers if any(at == layer for at, _ in own)]
            alphas = [alpha for alpha in options.alphas if any(at == alpha for _, at in own)]
            rows = [[str(layer), *(_mark(own.get((layer, alpha)), chosen) for alpha in alphas)] for layer in layers]
            unit = "" if options.alpha_unit == "raw" else " median norms"
            title = f"{arm.name}, {target} tokens: gain in points by layer and alpha{unit}"
            click.echo(title)  # longer than the table is wide
            print_table(["layer", *(f"{alpha:g}" for alpha in alphas)], rows)
            click.echo()


def _mark(row: GridRow | None, chosen: set[str]) -> str:
    if row is None or row.gain is None:
        return "."
    said = f"{100 * row.gain.estimate:+.1f}"
    return f"({said})" if row.dropped else f"{said}*" if row.cell.cell_id in chosen else said


def _print_cells(task: TaskResult, n_shown: int) -> None:
    rows = [
        [
            row.vector,
            _setting(row.cell),
            f"{row.right:.3f}",
            f"{row.unread:.1%}",
            _gain(row.gain),
            "-" if row.p_family is None else f"{row.p_family:.3g}",
            f"{row.n_seen}{' (dropped)' if row.dropped else ''}",
        ]
        for row in task.rows[:n_shown]
    ]
    title = f"search split: the best {len(rows)} of {task.n_cells} cells"
    print_table(
        ["vector", "cell", "right", "unread", "gain, 95 % each alone", "p (family)", "samples"], rows, title=title
    )
    click.echo()


def _print_choices(task: TaskResult) -> None:
    rows: list[list[Any]] = []
    for choice in task.choices:
        test = choice.test
        rows.append(
            [
                choice.vector,
                _setting(choice.cell),
                f"{choice.search.gain.estimate:+.3f}",
                "-" if choice.bias is None else f"{choice.bias.optimism:+.3f}",
                "not asked" if test is None else _gain(test.gain),
                f"{(choice.search if test is None else test).unread_after:.1%}",
                "-" if test is None else f"{test.p_clustered:.3g}",
                "-" if choice.p_holm is None else f"{choice.p_holm:.3g}",
                "-" if test is None else "nothing" if test.detectable is None else f"{test.detectable:.3f}",
                _nulls(choice),
                "-" if choice.damage is None else str(choice.damage),
            ]
        )
    columns = ["vector", "chosen", "search gain", "of it choosing", "test gain, 95 %", "unread", "p", "p (Holm)"]
    print_table(
        [*columns, "could show", "nulls' best, p", "KL"],
        rows,
        title="chosen on the search split, ties to the smallest alpha",
    )


def _nulls(choice: GridChoice) -> str:
    """Gains of the null directions' own winners on the search split, and the vector's place among them."""
    if choice.nulls is None or choice.nulls.p is None:
        return "-"
    gains = sorted(null.gain for null in choice.nulls.nulls)
    return f"{len(gains)}: {median(gains):+.3f} mid, {gains[-1]:+.3f} best; p {choice.nulls.p:.3g}"


def _setting(cell: Cell) -> str:
    return f"layer {cell.layer}, alpha {cell.alpha:g}, {cell.target}"


def _gain(gain: Interval | None) -> str:
    return "-" if gain is None else f"{gain.estimate:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def _print_notes(task: TaskResult) -> None:
    if task.n_screened_out:
        n_all = task.n_cells + task.n_screened_out
        note(
            f"screened: the {task.n_cells} best predicted of {n_all} cells were run; no p over the family of all cells"
        )
        note(pilot_note(task.n_pilot, task.n_pilot_answers, task.n_computed_pilot))
    _print_races(task.choices, task)
    for choice in task.choices:
        if choice.lineage in ("foreign", "unknown"):
            note(f"{choice.vector}: a vector of {choice.lineage} lineage")
        if line := clusters_line(choice.test or choice.search):
            note(f"{choice.vector}: {line}")
    for line in dict.fromkeys(task.notes):
        note(line)
    for split, mode in task.modes.items():
        note(f"{split} split: {mode.reason}")
    for failure in task.failures[:SHOWN]:
        note(f"failed ({failure.split}): {failure.error}")
    if len(task.failures) > SHOWN:
        note(f"and {len(task.failures) - SHOWN} more: --json names all")
    if task.n_looks is not None:
        times = "once" if task.n_looks == 1 else f"{task.n_looks} times"
        note(f"the test split of {task.name} ({task.rule}) was looked at {times}")
    if task.computed_in_full:
        note(f"{len(task.computed_in_full)} cells ran in full: {next(iter(task.computed_in_full.values()))}")
    ties = f", {len(task.near_ties):,} of them near-ties" if task.near_ties else ""
    note(
        f"{task.n_computed_in_all:,} answers computed{_shares(task)}{ties}, {task.n_reused:,} read from the cache;"
        f" sweep {task.sweep_id[:SHORT_ID]}"
    )


def _shares(task: TaskResult) -> str:
    """What the answers were computed for, where it was not the grid alone."""
    others = {"the pilot": task.n_computed_pilot, "null directions": task.n_computed_nulls}
    if not any(others.values()):
        return ""
    shares = {"the grid": task.n_computed, **others}
    return f" ({', '.join(f'{n:,} for {what}' for what, n in shares.items() if n)})"


def _print_races(choices: Sequence[GridChoice], task: TaskResult) -> None:
    for choice in choices:
        race = task.races.get(choice.vector)
        if race is not None:
            note(
                f"{choice.vector}: raced, {race.n_dropped} of {choice.n_cells} cells dropped early, {race.work:.0%} of the"
                f" grid's answers; promised with probability {1 - race.error:g}: the best cell of the whole search split or"
                f" one at most {race.tolerance:g} below it"
            )
