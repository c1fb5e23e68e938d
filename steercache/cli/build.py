"""`steercache build`: trace a model into the cache."""

import math
from pathlib import Path

import click

from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.non_finite import REMEDIES, describe_non_finite
from steercache.cli.options import device_options, json_option, root_option
from steercache.cli.output import human_bytes, next_commands, note, print_json, progress_bar
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID
from steercache.queries.session import Session, open_session
from steercache.runs.dates import notes_on_dates
from steercache.runs.engine import BuildOptions, BuildResult, build_run
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.overview import bytes_of_gb
from steercache.runs.plan import Plan, plan_run

_LABELLED = """
SELECT
    coalesce(bool_or(s.concept IS NOT NULL AND len(s.anchors) > 0), false),
    coalesce(bool_or(s.pair_id IS NOT NULL AND s.polarity IN (1, -1)), false),
    any_value(r.modality)
FROM samples s JOIN runs r ON r.run_id = s.run_id
WHERE s.run_id = $run
"""


@click.command()
@click.argument("manifest")
@root_option
@device_options
@json_option
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that trace shards."
)
@click.option(
    "--budget",
    metavar="GB",
    type=click.FloatRange(min=0, min_open=True),
    help="Refuse to write more than this; otherwise the manifest's `budget_gb`, 20 unless it says more.",
)
@click.option("--force", is_flag=True, help="Resume under other numerics than the run began with; recorded.")
@click.option("--device-map", help="Spread the model over devices, as accelerate does: auto, balanced, ...")
def build(
    manifest: str,
    root: Path,
    device: str,
    dtype: str,
    as_json: bool,
    workers: int,
    budget: float | None,
    force: bool,
    device_map: str | None,
) -> None:
    """Trace a model into the cache, as MANIFEST (a file, or a shipped name) says.

    Safe to kill at any moment: the same command goes on, and loses at most the shard in flight.

    \b
    steercache build smollm2-concepts
    """
    with progress_bar("reading inputs", total=None, unit="samples", quiet=as_json) as bar:
        prepared = prepare_trace(manifest, cache_root=root, device=device, dtype=dtype, device_map=device_map)
        cache = open_cache(root, create=True)
        planned = plan_run(prepared.job, cache=cache, progress=bar.show)
    if planned.mended_labels_in:
        note(f"labels changed: joined anew in {', '.join(planned.mended_labels_in)}; no activation was touched")
    for sentence in notes_on_dates(cache, planned.document):
        note(sentence)
    result = _build(cache, planned, prepared, workers=workers, budget=budget, force=force, quiet=as_json)
    if as_json:
        print_json(result)
        return
    did = f"traced {result.n_shards_built} shards" if result.n_shards_built else "everything was cached already"
    kept = f", kept {result.n_shards_kept}" if result.n_shards_built and result.n_shards_kept else ""
    click.echo(f"{result.name}  {result.run_id[:SHORT_ID]}  {did}{kept} in {result.seconds:.1f} s")
    click.echo(f"{result.n_rows:,} rows, {human_bytes(result.n_bytes)} in {root}/runs/{result.run_id[:SHORT_ID]}...")
    if result.computed_otherwise:
        note(
            f"the rows were computed under other numerics than this build's: {'; '.join(result.computed_otherwise)}. "
            f"Nothing was computed anew; to do so: steercache cache rm {result.name}, then build again"
        )
    if result.non_finite:
        rows = describe_non_finite(result.non_finite, n_rows=result.n_rows)
        note(f"{rows}; {REMEDIES[planned.document.layout.dtype]}")
    if result.index_held_by:
        note(f"the index could not be written ({result.index_held_by}); it catches up with the next command")
    next_commands("steercache query runs_overview", *_fits_for(open_session(root), result))


def _fits_for(session: Session, result: BuildResult) -> list[str]:
    """What can be fitted with the labels of the run, if it has any: concepts with anchors, contrastive pairs."""
    ((has_anchors, has_pairs, modality),) = session.sql(_LABELLED, run=result.run_id).fetchall()
    of_run = "" if modality == "text" else f" --run {result.name}"  # unasked, a fit takes a text run
    ways = (("--all-concepts", has_anchors), ("--query contrast_last", has_pairs))
    return [f"steercache fit mean-shift {way}{of_run}" for way, fits in ways if fits]


def _build(
    cache: CacheFolder,
    planned: Plan,
    prepared: PreparedTrace,
    *,
    workers: int,
    budget: float | None,
    force: bool,
    quiet: bool,
) -> BuildResult:
    with progress_bar(f"tracing {planned.document.name}", total=planned.n_tokens, unit="tokens", quiet=quiet) as bar:
        options = BuildOptions(
            force=force,
            workers=workers,
            budget_bytes=None if budget is None else _bytes_of(budget),
            on_tokens=bar.advance,
            on_note=note,
        )
        return build_run(cache, planned, prepared, options)


def _bytes_of(budget_gb: float) -> int:
    if not math.isfinite(budget_gb):
        raise UsageError(f"--budget {budget_gb} is no size", hint="--budget 20, or leave it out")
    return bytes_of_gb(budget_gb)
