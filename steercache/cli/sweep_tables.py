"""A sweep at the terminal, an evaluation or one task of a grid: its table, its maps of gains, and notes about it."""

from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from steercache.cli.clusters import clusters_line
from steercache.cli.output import note, print_table
from steercache.cli.screen_tables import pilot_note
from steercache.core.ids import SHORT_ID
from steercache.core.trials import UNIT_WORDS

if TYPE_CHECKING:
    from steercache.benchmarks.whatsup import WhatsUpScore
    from steercache.stats.paired import Interval
    from steercache.sweeps.cell_rows import CellRow
    from steercache.sweeps.gain_maps import GainMap
    from steercache.sweeps.result import SweepResult
    from steercache.sweeps.table import SplitTable, SweepTable, TableRow

EQUAL_KL = "strengths count in nats of KL: cells of equal alpha do equal damage on unrelated prompts"
SHOWN = 5  # failures named at the terminal; --json has all
_COLUMNS = (
    *("", "setting", "right", "unread", "gain", "95 %", "wrong way"),
    *("p", "p (Holm)", "could show", "controls", "rank p", "KL"),
)


def sweep_json(result: "SweepResult") -> dict[str, Any]:
    """A result for `--json`: the table, and what is known beside it, in one object."""
    whole = asdict(result)
    return {**whole.pop("table"), **whole, "n_computed_in_all": result.n_computed_in_all}


def print_splits(table: "SweepTable") -> None:
    """Every split: prompting and vectors against the model without a vector, each at the cell that it took."""
    for split in table.splits:
        title = f"{table.model} on {table.benchmark}, {split.split} split: {split.baseline:.3f} unsteered, {split.n} questions"
        title += f" ({split.unread:.1%} of the unsteered answers unread)"
        if split.rows:
            print_table(_COLUMNS, [_cells(row) for row in split.rows], title=title)
        else:  # the unsteered model alone
            click.secho(title, bold=True)
        if split.whatsup is not None:
            click.echo(f"  unsteered: {whatsup_line(split.whatsup)}")
        for row in split.rows:
            _print_lines(row)
        click.echo()
    _print_interference(table)
    if table.splits[-1].split == "search":
        click.echo("test split: not asked")


def _print_interference(table: "SweepTable") -> None:
    """Combinations of vectors beside what their parts do alone; nothing without any."""
    from steercache.api.sweeps import INTERFERENCE_COLUMNS, interference_line

    if table.interference:
        title = (
            f"several vectors at once, {table.splits[0].split} split: measured, and the sum of what the parts do alone"
        )
        print_table(INTERFERENCE_COLUMNS, [interference_line(one) for one in table.interference], title=title)
        click.echo()


def _cells(row: "TableRow") -> list[Any]:
    c = row.comparison
    gains = sorted(control.gain for control in row.controls)
    return [
        row.name,
        _short(row),
        f"{c.after:.3f}",
        f"{c.unread_after:.1%}",
        f"{c.gain.estimate:+.3f} (+{c.mcnemar.helped} -{c.mcnemar.hurt})",
        f"{c.gain.low:+.3f} to {c.gain.high:+.3f}",
        str(c.wrong_way),
        f"{c.p_clustered:.3g}",
        f"{row.p_holm:.3g}",
        "nothing" if c.detectable is None else f"{c.detectable:.3f}",
        f"{len(gains)}: {median(gains):+.3f} mid, {gains[-1]:+.3f} best" if gains else "-",
        "-" if row.rank_p is None else f"{row.rank_p:.3f}",
        "-" if row.damage is None else str(row.damage),
    ]


def _short(row: "TableRow | CellRow") -> str:
    """A setting in a column; several vectors stand in a line of their own below the table."""
    parts = row.cell.parts
    return f"{len(parts)} vectors, from layer {row.cell.layer}" if parts else row.setting or "-"


def _print_lines(row: "TableRow") -> None:
    """The parts of a combination; answers before and after, where they are few enough to be read in a line; what choosing was
    worth; the vector's fit."""
    if row.cell.parts:
        click.echo(f"  {row.name}: {row.setting}")
    letters = row.comparison.letters
    if len(letters.letters) <= 12:
        shown = zip(letters.letters, letters.before, letters.after, letters.right, strict=True)
        counts = ", ".join(f"{name or 'unread'} {b}->{a} (right {r})" for name, b, a, r in shown)
        click.echo(f"  {row.name}: {counts}; at least {letters.distance:.0%} changed")
    if row.bias is not None:
        click.echo(
            f"  {row.name}: search gain {row.bias.search.estimate:+.3f}, selection optimism {row.bias.optimism:+.3f}"
        )
    if row.predictors is not None:
        click.echo(f"  {row.name}, fit at layer {row.cell.layer}: {row.predictors}")
    for effect in row.side_effects:
        click.echo(f"  {row.name}, side effect on {effect}")
    if row.whatsup is not None:
        click.echo(f"  {row.name}: {whatsup_line(row.whatsup)}")


def whatsup_line(score: "WhatsUpScore") -> str:
    """What'sUp's three accuracies with the numbers they are of."""
    pairs, sets = "no whole pair", f"no whole set ({score.n_partial_sets} not whole)"
    if score.pair is not None:
        pairs = f"pairs {score.pair:.3f} ({score.n_right_pairs} of {score.n_pairs})"
    if score.whole_set is not None:
        sets = f"sets {score.whole_set:.3f} ({score.n_sets}; {score.n_partial_sets} not whole)"
    return f"single {score.individual:.3f}, {pairs}, {sets}"


def print_maps(table: "SweepTable") -> None:
    """Per vector and target: layers down, strengths across, gains in points; `*` chosen, brackets: dropped by a race.

    Layers and strengths of which no cell was run, as in a screened sweep, are left out.
    """
    from steercache.api.sweeps import gain_maps

    for one in gain_maps(table):
        rows = [[str(layer), *(_mark(one, layer, alpha) for alpha in one.alphas)] for layer in one.layers]
        unit = UNIT_WORDS[one.alpha_unit]
        click.echo(
            f"{one.vector}, {one.target} tokens: gain in points by layer and alpha{unit}"
        )  # wider than the table
        print_table(["layer", *(f"{alpha:g}" for alpha in one.alphas)], rows)
        click.echo()


def _mark(one: "GainMap", layer: int, alpha: float) -> str:
    row = one.cells.get((layer, alpha))
    if row is None or row.gain is None:
        return "."
    points = f"{100 * row.gain.estimate:+.1f}"
    return f"({points})" if row.dropped else f"{points}*" if (layer, alpha) == one.chosen else points


def print_cells(table: "SweepTable", n_shown: int) -> None:
    """The best cells of the search split."""
    rows = [_cell_line(row) for row in table.cells[:n_shown]]
    title = f"search split: the best {len(rows)} of {len(table.cells)} cells"
    columns = ["vector", "cell", "right", "unread", "gain, 95 % each alone", "wrong way", "p (family)", "samples"]
    print_table(columns, rows, title=title)
    click.echo()


def _cell_line(row: "CellRow") -> list[Any]:
    return [
        row.vector,
        _short(row),
        f"{row.right:.3f}",
        f"{row.unread:.1%}",
        _gain(row.gain),
        str(row.wrong_way),
        "-" if row.p_family is None else f"{row.p_family:.3g}",
        f"{row.n_seen}{' (dropped)' if row.dropped else ''}",
    ]


def _gain(gain: "Interval | None") -> str:
    return "-" if gain is None else f"{gain.estimate:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def print_notes(result: "SweepResult") -> None:
    """What has to be known beside the table, on stderr."""
    table = result.table
    if result.n_screened_out:
        n_run = len(table.cells)
        note(
            f"screened: the {n_run} best predicted of {n_run + result.n_screened_out} cells were run; no p over the family of"
            " all cells"
        )
        note(pilot_note(result.n_pilot, result.n_pilot_answers, result.n_computed_pilot))
    _print_races(table)
    if any(row.cell.alpha_unit == "kl" for row in table.rows):
        note(EQUAL_KL)
    for split in table.splits:
        _print_clusters(split)
    for choice in table.choices:
        if choice.lineage in ("foreign", "unknown"):
            note(f"{choice.name}: a vector of {choice.lineage} lineage")
    for line in dict.fromkeys(result.notes):
        note(line)
    for name, mode in result.modes.items():
        note(f"{name} split: {mode.reason}")
    for failure in table.failures[:SHOWN]:
        note(f"failed ({failure.split}): {failure.error}")
    if len(table.failures) > SHOWN:
        note(f"and {len(table.failures) - SHOWN} more: --json names all")
    if table.n_looks is not None:
        times = "once" if table.n_looks == 1 else f"{table.n_looks} times"
        note(f"the test split of {table.benchmark} ({table.rule}) was looked at {times}")
    if result.computed_in_full:
        note(f"{len(result.computed_in_full)} cells ran in full: {next(iter(result.computed_in_full.values()))}")
    ties = f", {len(result.near_ties):,} of them near-ties" if result.near_ties else ""
    note(
        f"{result.n_computed_in_all:,} answers computed{_shares(result)}{ties}, {result.n_reused:,} read from the cache;"
        f" sweep {table.sweep_id[:SHORT_ID]}"
    )


def _print_clusters(split: "SplitTable") -> None:
    if split.rows and (line := clusters_line(split.rows[-1].comparison)):
        note(f"{split.split} split, {split.rows[-1].name}: {line}")


def _shares(result: "SweepResult") -> str:
    """What the answers were computed for, where it was not the grid alone."""
    others = {"the pilot": result.n_computed_pilot, "null directions": result.n_computed_nulls}
    if not any(others.values()):
        return ""
    shares = {"the grid": result.n_computed, **others}
    return f" ({', '.join(f'{n:,} for {what}' for what, n in shares.items() if n)})"


def _print_races(table: "SweepTable") -> None:
    for choice in table.choices:
        race = choice.race
        if race is not None:
            note(
                f"{choice.name}: raced, {race['n_dropped']} of {choice.n_cells} cells dropped early, {race['work']:.0%} of the"
                f" grid's answers; promised with probability {1 - race['error']:g}: the best cell of the whole search split or"
                f" one at most {race['tolerance']:g} below it"
            )
