"""`steercache build`: trace a model into the cache."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steercache.cli.completion import complete_models, complete_traces
from steercache.cli.options import device_options, engine_options, json_option, root_option, takes
from steercache.cli.output import human_bytes, next_commands, note, print_json, progress_bar
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.runs import Run
    from steercache.api.tracing import EngineName

_SHOWN = (
    *("run_id", "name", "n_shards_built", "n_shards_kept", "n_rows", "n_bytes", "seconds", "index_held_by"),
    *("computed_otherwise", "non_finite"),
)  # of a run, as JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """The options of `build`."""

    manifest: str
    model: str | None
    root: Path
    device: str
    dtype: str
    device_map: str | None
    engine: "EngineName"
    workers: int
    address: str | None
    cpus_per_worker: float
    gpus_per_worker: float
    mixed_numerics: bool
    budget: float | None
    force: bool
    as_json: bool


@click.command()
@click.argument("manifest", metavar="MANIFEST", shell_complete=complete_traces)
@click.option("--model", shell_complete=complete_models, help="Model that traces a data file, by name or file.")
@root_option
@device_options
@json_option
@engine_options
@click.option(
    "--mixed-numerics",
    is_flag=True,
    help="Let workers take part that compute other last bits than the run's first; the records of their shards say so.",
)
@click.option(
    "--budget",
    metavar="GB",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest size in GB; a larger run is refused. By default `budget_gb` of the manifest (20 if it has none).",
)
@click.option(
    "--force",
    is_flag=True,
    help="Resume a run that was started on a machine with other numerics; the run records both.",
)
@click.option("--device-map", help="Spread the model over devices, as accelerate does: auto, balanced, ...")
@takes(BuildOptions)
def build(asked: BuildOptions) -> None:
    """Trace a model into the cache. MANIFEST is a file or a shipped name.

    MANIFEST may also be a data file (.csv, .jsonl, .parquet, .txt) with a column `text` and optionally `anchor` and
    `concept`, or with the columns `positive` and `negative`; --model then names the model.

    An interrupted build is resumed by the same command; at most one shard is computed again.

    \b
    steercache build smollm2-concepts
    """
    from steercache.api.tracing import EngineOptions, build_trace

    if asked.budget is not None and not math.isfinite(asked.budget):
        raise UsageError(f"--budget {asked.budget} is not a size", hint="--budget 20, or leave it out")
    with progress_bar("reading inputs", total=None, unit="", quiet=asked.as_json) as bar:
        run = build_trace(
            asked.root,
            asked.manifest,
            model=asked.model,
            device=asked.device,
            dtype=asked.dtype,
            device_map=asked.device_map,
            engine=EngineOptions(
                name=asked.engine,
                workers=asked.workers,
                address=asked.address,
                cpus_per_worker=asked.cpus_per_worker,
                gpus_per_worker=asked.gpus_per_worker,
            ),
            mixed_numerics=asked.mixed_numerics,
            budget_gb=asked.budget,
            force=asked.force,
            progress=bar.show,
            on_note=note,
        )
    if asked.as_json:
        print_json({name: getattr(run, name) for name in _SHOWN})
        return
    _print(run, asked.root)
    next_commands("steercache query runs_overview", *_fits_for(asked.root, run))


def _print(run: "Run", root: Path) -> None:
    from steercache.api.maintenance import REMEDIES, describe_non_finite
    from steercache.api.paths import address_of

    did = (
        f"traced {run.n_shards_built} shard{'s' * (run.n_shards_built > 1)}"
        if run.n_shards_built
        else "everything was cached already"
    )
    kept = f", kept {run.n_shards_kept}" if run.n_shards_built and run.n_shards_kept else ""
    click.echo(f"{run.name}  {run.run_id[:SHORT_ID]}  {did}{kept} in {run.seconds:.1f} s")
    place = address_of(root) or root
    click.echo(f"{run.n_rows:,} rows, {human_bytes(run.n_bytes or 0)} in {place}/runs/{run.run_id[:SHORT_ID]}...")
    if run.computed_otherwise:
        note(
            f"the rows were computed under other numerics than this build's: {'; '.join(run.computed_otherwise)}. "
            f"Nothing was computed anew; to do so: steercache cache rm {run.name}, then build again"
        )
    if run.non_finite:
        rows = describe_non_finite(run.non_finite, n_rows=run.n_rows)
        note(f"{rows}; {REMEDIES[run.dtype]}")
    if run.index_held_by:
        note(f"the index could not be written ({run.index_held_by}); it catches up with the next command")


def _fits_for(root: Path, run: "Run") -> list[str]:
    """What can be fitted with the labels of the run, if it has any: concepts with anchors, contrastive pairs."""
    from steercache.api.cache import open_cache_at
    from steercache.api.fitting import PAIRS, labels_of

    labels = labels_of(open_cache_at(root).session, run.run_id)
    of_run = "" if run.modality == "text" else f" --run {run.name}"  # unasked, a fit takes a text run
    ways = ["--all-concepts"] if labels.has_anchors else []
    if labels.has_pairs:
        concepts = labels.concepts
        which = f" --concept {concepts[0]}" if len(concepts) == 1 else " --all-concepts" if concepts else ""
        ways.append(f"--query {PAIRS}{which}")
    return [f"steercache fit mean-shift {way}{of_run}" for way in ways]
