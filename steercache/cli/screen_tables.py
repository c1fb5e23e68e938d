"""A screening at the terminal and as JSON: the best predicted cells, each vector's best, its rank among nulls, its samples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from steercache.cli.output import note, print_table
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.screening import Effects, ScreenedTask
    from steercache.screening.job import ScreenedCombination
    from steercache.screening.many import NullRank, ScreenRow
    from steercache.screening.predict import By, SampleEffect


def as_json(
    found: "ScreenedTask", effects: "Effects", ranks: "Sequence[NullRank]", *, by: "By", n: int
) -> dict[str, Any]:
    """One task's predictions as JSON values."""
    return {
        "task": found.name,
        "gradient_run": found.run_id,
        "n_samples": found.n_samples,
        "n_left_out": found.n_left_out,
        "base_accuracy": found.base_accuracy,
        "base_accuracy_by_margins": found.grid.base_accuracy,
        "n_near_ties": found.n_near_ties,
        "base_margin": found.base_margin,
        "n_cells": found.grid.n_cells,
        "n_pilot": 0 if found.pilot is None else found.pilot.n_samples,
        "n_pilot_answers": 0 if found.pilot is None else found.pilot.n_answers,
        "n_computed_pilot": 0 if found.pilot is None else found.pilot.n_computed,
        "cells": found.grid.best(n, by=by),
        "vectors": found.grid.best_of_each(by=by)[:n],
        "combinations": [_combination(one) for one in found.combinations],
        "nulls": ranks,
        "samples": effects,
    }


def print_screened(found: "ScreenedTask", effects: "Effects", ranks: "Sequence[NullRank]", *, by: "By", n: int) -> None:
    """All tables of one task."""
    base = f"right unsteered {found.base_accuracy:.3f}, mean margin {found.base_margin:+.3f}"
    click.secho(f"{found.model} on {found.name}: {base}, {found.n_samples} questions of the search split", bold=True)
    click.echo()
    columns = ["vector", "cell", "margin shift", "right", "helped", "hurt", "step"]
    cells = found.grid.best(n, by=by)
    rows = [_row(row) for row in cells]
    print_table(columns, rows, title=f"predicted: the best {len(rows)} of {found.grid.n_cells:,} cells")
    click.echo()
    each = found.grid.best_of_each(by=by)
    if len(each) > 1:
        rows = [_row(row) for row in each[:n]]
        print_table(columns, rows, title=f"every vector at its best: the first {len(rows)} of {len(each):,}")
        click.echo()
    if found.combinations:
        rows = [_combined_row(one, found.grid.base_accuracy) for one in found.combinations]
        print_table(columns, rows, title="several vectors at once: the sum of what each does alone")
        click.echo()
    if ranks:
        _print_ranks(ranks)
    for vector, lists in effects.items():
        _print_effects(vector, lists)
    if any(row.beyond for row in (*cells, *each[:n])):
        note(f"*: stronger than {found.grid.trust:g} median norms of the steered rows; predicted as at that strength")
    if found.n_left_out:
        note(
            f"{found.n_left_out} questions left out: their options begin with the same token, or the question cannot be read"
        )
    if found.n_near_ties or found.base_accuracy != found.grid.base_accuracy:
        near = "" if not found.n_near_ties else f", {found.n_near_ties} of them near-ties"
        note(f"the predictions start from first-token answers, {found.grid.base_accuracy:.3f} of them right{near}")
    pilot = found.pilot
    said = pilot_note(0, 0, 0) if pilot is None else pilot_note(pilot.n_samples, pilot.n_answers, pilot.n_computed)
    note(said + ("; samples and ranks are not corrected by it" if pilot is not None and (ranks or effects) else ""))
    note(f"predicted, not run; gradients: {found.gradients.document.name} {found.run_id[:SHORT_ID]}")


def pilot_note(n_samples: int, n_answers: int, n_computed: int) -> str:
    """What a pilot asked, or that there was none."""
    if n_samples:
        now = f" ({n_computed:,} computed now)" if n_computed < n_answers else ""
        return f"pilot{now}: {n_answers:,} answers to {n_samples} of the questions corrected the predictions"
    return "no pilot: predictions are straight lines along the gradients, weak where damage is large (--pilot 40, of a sweep)"


def _row(row: "ScreenRow") -> list[Any]:
    step = "-" if row.step is None else f"{row.step:.2f}{'*' if row.beyond else ''}"
    unit = "" if row.alpha_unit == "raw" else " norms"
    return [
        row.vector,
        f"layer {row.layer}, alpha {row.alpha:g}{unit}, {row.target}",
        f"{row.shift:+.3f}",
        f"{row.accuracy:.3f} ({row.gain:+.3f})",
        row.helped,
        row.hurt,
        step,
    ]


def _combination(one: "ScreenedCombination") -> dict[str, Any]:
    found: dict[str, Any] = {"name": one.name, "setting": one.setting, "reason": one.reason}
    numbers = ("shift", "accuracy", "helped", "hurt", "step", "beyond")
    return found | {name: None if one.predicted is None else getattr(one.predicted, name) for name in numbers}


def _combined_row(one: "ScreenedCombination", base_accuracy: float) -> list[Any]:
    found = one.predicted
    if found is None:
        return [one.name, f"{one.setting} (not predicted: {one.reason})", "-", "-", "-", "-", "-"]
    step = "-" if found.step is None else f"{found.step:.2f}{'*' if found.beyond else ''}"
    right = f"{found.accuracy:.3f} ({found.accuracy - base_accuracy:+.3f})"
    return [one.name, one.setting, f"{found.shift:+.3f}", right, found.helped, found.hurt, step]


def _print_ranks(ranks: "Sequence[NullRank]") -> None:
    rows = []
    for rank in ranks:
        best = [f"{target} {min(shares):.3g}" for target, shares in rank.at_layer.items()]
        p = "-" if rank.p is None else f"{rank.p:.3g}"
        rows.append([rank.vector, rank.n_nulls, p, ", ".join(best) or "-", rank.note or ""])
    columns = ["vector", "nulls", "p, best cell of the grid", "smallest share at one layer", ""]
    print_table(columns, rows, title="among directions with the covariance of its rows, at its own norms")
    click.echo()


def _print_effects(vector: str, lists: "Mapping[str, tuple[SampleEffect, ...]]") -> None:
    for which, some in lists.items():
        rows = [
            [f"{e.before:+.2f}", f"{e.after:+.2f}", e.answer, ", ".join(e.choices) or "-", e.question] for e in some
        ]
        title = f"{vector}: samples most {which}"
        if rows:
            print_table(["margin", "predicted", "right", "choices", "question"], rows, title=title)
        else:
            click.echo(f"{title}: none")
        click.echo()
