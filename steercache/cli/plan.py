"""`steercache plan`: what a trace or a sweep will cost, before anything is computed."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from steercache.cli.completion import complete_models, complete_plans
from steercache.cli.options import device_options, json_option, mode_options, root_option, takes
from steercache.cli.output import human_bytes, next_commands, note, print_json, print_table, progress_bar
from steercache.core.counts import counted
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.tracing import PlannedTrace
    from steercache.runs.overview import Overview
    from steercache.sweeps.plan import SweepPlan, TaskPlan


MOST_SHOWN = 12  # proposals; all are in the JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What is planned, as typed."""

    manifest: str
    model: str | None
    nulls: int
    mode: Literal["auto", "replay", "branch", "full"]
    recalibrate: bool
    budget: float | None
    root: Path
    device: str
    dtype: str
    as_json: bool


@click.command()
@click.argument("manifest", shell_complete=complete_plans)
@click.option("--model", shell_complete=complete_models, help="Model that traces a data file, as in `build`.")
@click.option(
    "--nulls",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Null directions per vector, as in `grid`; counted in the estimate.",
)
@mode_options
@click.option(
    "--budget",
    metavar="GB",
    type=click.FloatRange(0, min_open=True),
    help="For a trace: propose layers, rows and codecs that fit in this many GB, and say what each still allows.",
)
@root_option
@device_options
@json_option
@takes(PlanOptions)
def plan(asked: PlanOptions) -> None:
    """Estimate the size and time of a trace or sweep. MANIFEST is a file or a shipped name.

    For a trace: rows, bytes, seconds, and the shards that are cached already. For a sweep: answers to compute, answers that
    are cached, and the time of each execution mode; its vectors are found, or fitted and stored, as in `grid`.

    \b
    steercache plan smollm2-concepts
    steercache plan smollm2-concepts --budget 0.05
    steercache plan tiny-scenes
    steercache plan tiny-scenes --nulls 20
    """
    from steercache.api.tracing import is_sweep

    if is_sweep(asked.manifest):
        _plan_sweep(asked)
    else:
        _plan_trace(asked)


def _plan_sweep(asked: PlanOptions) -> None:
    from steercache.api.cache import open_cache_at

    sweep = open_cache_at(asked.root).sweep(asked.manifest, device=asked.device, dtype=asked.dtype)
    with progress_bar("reading questions", total=None, unit="", quiet=asked.as_json) as bar:
        planned = sweep.plan(nulls=asked.nulls, mode=asked.mode, recalibrate=asked.recalibrate, progress=bar.show)
    if asked.as_json:
        print_json(planned)
        return
    _print_sweep(planned)
    next_commands(f"steercache grid {asked.manifest}")


def _plan_trace(asked: PlanOptions) -> None:
    from steercache.api.tracing import plan_at

    with progress_bar("reading inputs", total=None, unit="samples", quiet=asked.as_json) as bar:
        found = plan_at(
            asked.root,
            asked.manifest,
            model=asked.model,
            device=asked.device,
            dtype=asked.dtype,
            budget_gb=asked.budget,
            progress=bar.show,
        )
    if asked.as_json:
        print_json(found.overview)
        return
    _print_overview(found)
    if asked.budget is not None:
        _print_proposals(found.overview)
    with_model = "" if asked.model is None else f" --model {asked.model}"
    next_commands(f"steercache build {asked.manifest}{with_model}")


def _print_sweep(planned: "SweepPlan") -> None:
    from steercache.core.durations import duration_text

    rows = [row for task in planned.tasks for row in _sweep_rows(task)]
    columns = ["task", "split", "questions", "cells", "to compute", "cached", "read", "replay", "branch", "full", "way"]
    print_table(columns, rows, title=f"{planned.sweep}: {counted(planned.n_vectors, 'vector')} on {planned.model}")
    for task in planned.tasks:
        for split, mode in task.modes.items():
            note(f"{task.name}, {split} split: {mode.reason}")
    if any("test" in task.modes for task in planned.tasks):
        note("test split: one cell per vector is answered; it is not chosen yet, so the slowest is counted")
    if planned.at_most:
        note("a race runs fewer cells than these")
    parts = [f"{name} {duration_text(seconds)}" for name, seconds in planned.parts.items() if seconds]
    of = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    note(f"about {duration_text(planned.seconds)} in all{of}, by costs measured here")


def _sweep_rows(task: "TaskPlan") -> list[list[Any]]:
    from steercache.core.durations import duration_text

    return [
        [
            task.name,
            split,
            task.n_samples[split],
            task.n_cells[split],
            mode.n_to_compute,
            mode.n_cached,
            duration_text(task.read_s) if split == "search" else "-",
            *(duration_text(mode.seconds[way]) if way in mode.seconds else "-" for way in ("replay", "branch", "full")),
            mode.mode,
        ]
        for split, mode in task.modes.items()
    ]


def _print_proposals(seen: "Overview") -> None:
    """What fits the budget; where nothing does, the smallest choices."""
    from steercache.api.tracing import decimal_bytes, shortlist

    shown = shortlist(seen.proposals)[:MOST_SHOWN]
    print_table(
        ["layers", "rows", "codec", "size", "while written", "fit", "replay", "SAEs", "values"],
        [
            [
                _layers_text(one.layers),
                one.rows,
                one.codec,
                f"{'about ' if one.codec != 'raw' else ''}{decimal_bytes(one.n_bytes)}",
                decimal_bytes(one.n_bytes_written),
                one.fit,
                "yes" if one.replay else "no",
                ("yes" if one.exact else "of changed values") if one.saes else "no",
                "exact" if one.exact else "changed",
            ]
            for one in shown
        ],
        title=f"{'Within' if shown[0].fits else 'Nothing fits in'} {decimal_bytes(seen.budget_bytes)}",
    )
    note(
        "vectors can be fitted and screened at the layers of a row; the other codecs are made by `steercache cache compact`"
    )


def _layers_text(layers: tuple[int, ...]) -> str:
    """Layers as a range with its step, or one by one."""
    steps = {after - before for before, after in pairwise(layers)}
    if len(layers) < 3 or len(steps) > 1:
        return ", ".join(map(str, layers))
    (step,) = steps
    return f"{layers[0]} to {layers[-1]}" + (f", every {step}" if step > 1 else "")


def _time(seen: "Overview") -> str:
    from steercache.core.durations import duration_text

    if seen.seconds is None:
        return "unknown until a first build here"
    of = ", for the forward passes alone" if seen.forward_only else ", guessed before a first build here"
    return f"about {duration_text(seen.seconds)}{of if seen.forward_only or seen.guessed else ''}"


def _print_overview(found: "PlannedTrace") -> None:
    from steercache.api.tracing import decimal_bytes, sizes_of

    planned, seen = found.plan, found.overview
    document = planned.document
    layout = document.layout
    print_table(
        ["what", "value"],
        [
            ["run", f"{document.name} {document.run_id[:SHORT_ID]}"],
            [
                "model",
                f"{document.model.name}, {document.model.dtype}, {document.model.n_layers} x {document.model.hidden_size}",
            ],
            [
                "inputs",
                f"{document.n_samples:,} samples, {planned.n_tokens:,} tokens, longest {planned.longest_sample:,}",
            ],
            [
                "kept",
                f"{', '.join(s.site for s in layout.sites)}; {len(layout.sites[0].layers)} layers; {document.n_rows:,} rows",
            ],
            ["largest sample", sizes_of(planned).partition(" samples of up to ")[2]],
            ["size", f"{human_bytes(planned.n_bytes)} in {len(document.shards)} shards ({layout.dtype}, raw)"],
            ["cached already", f"{seen.n_shards_cached} of {len(document.shards)} shards"],
            ["still to write", human_bytes(seen.n_bytes_to_write)],
            ["free on disk", human_bytes(seen.n_bytes_free)],
            ["time", _time(seen)],
        ],
    )
    if seen.n_bytes_to_write > seen.budget_bytes:
        note(f"over the budget of {decimal_bytes(seen.budget_bytes)}: a build is refused unless --budget says more")
    for sentence in seen.notes:
        note(sentence)
    for other in seen.overlapping:
        note(f"overlaps with {other.name} ({other.run_id[:SHORT_ID]}): {other.what}")
