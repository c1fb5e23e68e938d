"""`steercache screen SWEEP --compare`: what replaces the grid search, worked out from a finished grid's answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from steercache.cli.output import note, print_table
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.sweeps.finished_grid import ShortcutOptions
    from steercache.sweeps.shortcuts import Shortcut
    from steercache.sweeps.shortcuts_job import ComparedShortcuts


def compared_json(found: "Sequence[ComparedShortcuts]") -> list[dict[str, Any]]:
    """Every vector's ways, with the cell that each chose."""
    return [
        {
            "task": one.task,
            "sweep_id": one.sweep_id,
            "vector": one.vector,
            "vector_id": one.vector_id,
            "gradient_run": one.gradient_run,
            "n_samples": one.n_samples,
            "n_cells": len(one.settings),
            "ways": [
                {
                    **{name: getattr(way, name) for name in way.__slots__ if name != "cell"},
                    "layer": one.settings[way.cell].cell.layer,
                    "alpha": one.settings[way.cell].cell.alpha,
                    "target": one.settings[way.cell].cell.target,
                    "cell_id": one.settings[way.cell].cell.cell_id,
                }
                for way in one.ways
            ],
        }
        for one in found
    ]


def print_compared(found: "Sequence[ComparedShortcuts]", options: "ShortcutOptions") -> None:
    """One table per vector and measure."""
    from steercache.api.screening import MEASURES

    for one in found:
        size = f"{len(one.settings)} cells, {one.n_samples} questions"
        click.secho(f"{one.vector} on {one.task}: {size}, {options.n_resamples} resamples", bold=True)
        for measure in MEASURES:
            rows = [_row(one, way) for way in one.ways if way.measure == measure]
            columns = [
                "way",
                "chosen",
                "gain, 95 % as if not chosen",
                "of the best",
                "held out",
                "answers",
                "work",
                "promise",
            ]
            print_table(columns, rows, title=f"gain in {measure}")
            click.echo()
        best = next(way for way in one.ways if way.measure == "margin")
        if best.gain_low is None or best.gain_low <= 0:
            note(f"{one.vector}: the exhaustive winner's gain in margin is not clear of 0: shares of it mean little")
        if one.n_left_out:
            note(f"{one.vector}: {one.n_left_out} questions without a margin are left out")
    note(f"kept with the sweep {found[0].sweep_id[:SHORT_ID]}; work counts forward passes, the gradient run's included")


def _row(one: "ComparedShortcuts", way: "Shortcut") -> list[Any]:
    cell = one.settings[way.cell].cell
    interval = "" if way.gain_low is None else f" ({way.gain_low:+.3f} to {way.gain_high:+.3f})"
    return [
        way.way,
        f"layer {cell.layer}, alpha {cell.alpha:g}, {cell.target}",
        f"{way.gain:+.3f}{interval}",
        "-" if way.share_kept is None else f"{way.share_kept:.0%}",
        "-" if way.gain_held_out is None else f"{way.gain_held_out:+.3f}",
        f"{way.answers_share:.0%}",
        f"{way.work_share:.0%}",
        "-" if way.promise_kept is None else f"{way.promise_kept:.0%}",
    ]
