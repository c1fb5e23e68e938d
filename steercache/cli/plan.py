"""`steercache plan`: what a trace or a sweep will cost, before anything is computed."""

from pathlib import Path
from typing import Any

import click

from steercache.answers.costs import costs_here, duration_text, known_costs
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cells.sweep import prepare_sweep, sweep_model
from steercache.cli.options import device_options, json_option, mode_options, root_option
from steercache.cli.output import human_bytes, next_commands, note, print_json, print_table, progress_bar
from steercache.core.errors import NotFoundError
from steercache.core.ids import SHORT_ID
from steercache.manifests.load import declared_kind, find_manifest
from steercache.manifests.resolve import resolve_sweep
from steercache.models.load import resolve_device
from steercache.queries.session import open_session
from steercache.runs.job import prepare_trace
from steercache.runs.overview import Overview, decimal_bytes, overview, sizes_of
from steercache.runs.plan import Plan, plan_run
from steercache.screening.job import model_without_weights
from steercache.screening.pilot import screen_first_of
from steercache.sweeps.grid.plan import SweepPlan, TaskPlan, plan_sweep
from steercache.sweeps.grid.run import GridOptions


@click.command()
@click.argument("manifest")
@click.option(
    "--nulls",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="As for a grid: counted in its time.",
)
@mode_options
@root_option
@device_options
@json_option
def plan(manifest: str, root: Path, as_json: bool, **asked: Any) -> None:
    """Say what a trace or a sweep MANIFEST (a file, or a shipped name) will cost, before anything is computed.

    Of a trace: rows, bytes, seconds, and what is cached already. Of a sweep: answers to compute, those that are cached, and
    how long reading, replaying, branching and recomputing would take; its vectors are found, or fitted and kept, as for a grid.

    \b
    steercache plan smollm2-concepts
    steercache plan tiny-scenes
    steercache plan tiny-scenes --nulls 20
    """
    if _is_sweep(manifest):
        planned = _plan_sweep(manifest, root, asked, quiet=as_json)
        if as_json:
            print_json(planned)
        else:
            _print_sweep(planned)
            next_commands(f"steercache grid {manifest}")
        return
    with progress_bar("reading inputs", total=None, unit="samples", quiet=as_json) as bar:
        prepared = prepare_trace(manifest, cache_root=root, device=asked["device"], dtype=asked["dtype"])
        trace = plan_run(prepared.job, progress=bar.show)
    seen = overview(_existing(root), root, trace)
    if as_json:
        print_json(seen)
        return
    _print_overview(trace, seen)
    next_commands(f"steercache build {manifest}")


def _is_sweep(manifest: str) -> bool:
    try:
        return declared_kind(find_manifest(manifest, search=(Path(),))) == "sweep"
    except NotFoundError:
        return False  # as a trace it will be said what is missing


def _plan_sweep(manifest: str, root: Path, asked: dict[str, Any], *, quiet: bool) -> SweepPlan:
    resolved = resolve_sweep(manifest, search=(Path(),))
    session = open_session(root)
    found = sweep_model(resolved, root)
    bundle = found.bundle(root, dtype=asked["dtype"])
    with progress_bar("reading questions", total=None, unit="", quiet=quiet) as bar:
        job = prepare_sweep(session, model_without_weights(bundle), resolved, progress=bar.show)
    costs = None
    if not asked["recalibrate"]:
        costs = known_costs(session.cache, bundle.spec, resolve_device(asked["device"]))
    if costs is None:
        loaded = found.load(root, device=asked["device"], dtype=asked["dtype"])
        costs = costs_here(session.cache, loaded, again=asked["recalibrate"])
    sweep = resolved.sweep
    options = GridOptions(race=sweep.race, screen_first=screen_first_of(sweep), nulls=asked["nulls"])
    return plan_sweep(job, costs, options, wanted=asked["mode"])


def _print_sweep(planned: SweepPlan) -> None:
    rows = [row for task in planned.tasks for row in _sweep_rows(task)]
    columns = ["task", "split", "questions", "cells", "to compute", "cached", "read", "replay", "branch", "full", "way"]
    print_table(columns, rows, title=f"{planned.sweep}: {planned.n_vectors} vectors on {planned.model}")
    for task in planned.tasks:
        for split, mode in task.modes.items():
            note(f"{task.name}, {split} split: {mode.reason}")
    if any("test" in task.modes for task in planned.tasks):
        note("of the test split one cell a vector is asked, the dearest is counted: which, is not chosen yet")
    if planned.at_most:
        note("a race runs fewer cells than these")
    parts = [f"{name} {duration_text(seconds)}" for name, seconds in planned.parts.items() if seconds]
    of = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    note(f"about {duration_text(planned.seconds)} in all{of}, by costs measured here")


def _sweep_rows(task: TaskPlan) -> list[list[Any]]:
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


def _existing(root: Path) -> CacheFolder | None:
    try:
        return open_cache(root)
    except NotFoundError:
        return None


def _time(seen: Overview) -> str:
    if seen.seconds is None:
        return "unknown until a first build here"
    of = ", for the forward passes alone" if seen.forward_only else ", guessed before a first build here"
    return f"about {duration_text(seen.seconds)}{of if seen.forward_only or seen.guessed else ''}"


def _print_overview(planned: Plan, seen: Overview) -> None:
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
