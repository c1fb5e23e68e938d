"""`steercache cache`: status, verify, rebuild, compact, rm, gc."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from steercache.cli.completion import complete_runs
from steercache.cli.options import cpu_engine_options, json_option, root_option, takes
from steercache.cli.output import human_bytes, next_commands, note, print_json, print_table, progress_bar
from steercache.core.counts import counted
from steercache.core.errors import DamagedError, UsageError
from steercache.core.ids import SHORT_ID

if TYPE_CHECKING:
    from steercache.api.tracing import EngineName
    from steercache.cache.codec_errors import LayerError
    from steercache.cache.status import EncodingStatus, RunStatus


@click.group()
def cache() -> None:
    """Inspect, verify, compact and clean the cache.

    \b
    steercache cache status
    steercache cache verify
    """


@cache.command()
@root_option
@json_option
def status(root: Path, as_json: bool) -> None:
    """Show the runs, vectors and sweeps of the cache, and their sizes. Reads the files, not the index.

    \b
    steercache cache status
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.maintenance import build_command, describe_non_finite

    seen = open_cache_at(root).status()
    if as_json:
        print_json(seen)
        return
    print_table(
        ["run", "name", "model", "data", "sites x layers", "dtype", "codec", "rows", "size", "shards"],
        [
            [
                run.run_id[:SHORT_ID],
                run.name,
                run.model,
                ", ".join(run.datasets),
                f"{', '.join(run.sites)} x {run.n_layers}",
                run.dtype,
                run.codec,
                f"{run.n_rows:,}",
                human_bytes(run.n_bytes),
                _shards_of(run),
            ]
            for run in seen.runs
        ],
    )
    held = f"{human_bytes(seen.n_bytes)} in {counted(len(seen.runs), 'run')}, {counted(seen.n_vectors, 'vector')}"
    click.echo(f"\n{held}; {human_bytes(seen.n_bytes_free)} free")
    if seen.remote is not None:
        used, most = human_bytes(seen.remote.n_bytes_read_cache), human_bytes(seen.remote.most_bytes_read_cache)
        click.echo(f"the cache is at {seen.remote.address}, its documents are mirrored in {seen.root}")
        click.echo(f"{used} of blocks that were read are kept here, at most {most}")
    for one in seen.encodings:
        click.echo(f"{human_bytes(one.n_bytes)} of features: {_encoding_of(one)}")
    if seen.n_bytes_leftover:
        note(f"{human_bytes(seen.n_bytes_leftover)} that nothing refers to: steercache cache gc")
    for message in seen.damaged:
        note(f"damaged: {message}")
    for run in seen.runs:
        if run.non_finite:
            note(f"{run.name} has {describe_non_finite(run.non_finite, n_rows=run.n_rows)}")
        if run.codec_error:
            far, turned = max(run.codec_error, key=_far), min(run.codec_error, key=_cosine)
            means = [one.mean_relative for one in run.codec_error if one.mean_relative is not None]
            mean = f", by {max(means):.2%} on average in the layer where that is most" if means else ""
            note(
                f"{run.name} is lossy ({run.codec}): rows differ by up to {far.max_relative:.2%} of their norm"
                f" ({far.site} layer {far.layer}){mean}; their cosine is at least {turned.min_cosine:.5f}"
                f" ({turned.site} layer {turned.layer})"
            )
        if not run.complete and not run.n_shards_damaged:
            note(f"{run.name} is not complete: {build_command(run.name)}")


def _far(error: "LayerError") -> float:
    return error.max_relative


def _cosine(error: "LayerError") -> float:
    return error.min_cosine


def _encoding_of(one: "EncodingStatus") -> str:
    lacking = [f"{n:,} {what}" for n, what in ((one.n_rows_stale, "stale"), (one.n_rows_missing, "not encoded")) if n]
    of = f"{one.n_rows:,} rows of {one.run_id[:SHORT_ID]}, {one.site} {one.layer}, by the SAE {one.sae}"
    return f"{of}{', LOSSY' if one.lossy else ''}" + (f" ({', '.join(lacking)}: encode again)" if lacking else "")


def _shards_of(run: "RunStatus") -> str:
    damaged = f", {run.n_shards_damaged} damaged" if run.n_shards_damaged else ""
    return str(run.n_shards) if run.complete else f"{run.n_shards_committed} of {run.n_shards}{damaged}"


@cache.command()
@click.argument("runs", nargs=-1, shell_complete=complete_runs)
@root_option
@json_option
def verify(runs: tuple[str, ...], root: Path, as_json: bool) -> None:
    """Compare every file (of RUNS, or of all) with its recorded size and checksums. Exit code 5 when something differs.

    Rows with infinities or NaN are listed too; their files are not damaged, and the exit code stays 0.

    \b
    steercache cache verify
    """
    from steercache.api.cache import open_cache_at

    with progress_bar("verifying", total=None, unit="shards", quiet=as_json) as bar:
        found = open_cache_at(root).verify(*runs, progress=bar.show)
    if as_json:
        print_json({"n_bytes": found.n_bytes, "findings": found.findings})
        click.get_current_context().exit(DamagedError.exit_code if found.damage else 0)
    findings, n_bytes = found.findings, found.n_bytes
    for finding in findings:
        click.echo(f"{finding.place}: {finding.message}")
    if found.damage:
        remedies = "; or ".join(dict.fromkeys(f.remedy for f in found.damage))
        raise DamagedError(f"{len(found.damage)} problems in {human_bytes(n_bytes)}", place=str(root), hint=remedies)
    for remedy in dict.fromkeys(f.remedy for f in findings):
        note(f"try: {remedy}")
    click.echo(
        f"{human_bytes(n_bytes)} verified, every file is as it was written"
        if findings
        else f"{human_bytes(n_bytes)} verified, no problem found"
    )


@cache.command()
@root_option
@json_option
def rebuild(root: Path, as_json: bool) -> None:
    """Rebuild index.duckdb from the files of the cache.

    \b
    steercache cache rebuild
    """
    from steercache.api.cache import open_cache_at

    opened = open_cache_at(root)
    with progress_bar("rebuilding", total=None, unit="shards", quiet=as_json) as bar:
        n_shards = opened.rebuild(progress=bar.show)
    index, n_runs = opened.folder.paths.index, len(opened.folder.documents())
    if as_json:
        print_json({"index": index, "n_runs": n_runs, "n_shards": n_shards})
        return
    click.echo(f"{index} rebuilt from {counted(n_runs, 'run')}, {counted(n_shards, 'shard')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactOptions:
    """The options of `cache compact`."""

    run: str
    codec: Literal["blosc", "pcodec", "int8", "raw"]
    engine: "EngineName"
    workers: int
    address: str | None
    cpus_per_worker: float
    root: Path
    as_json: bool


@cache.command()
@click.argument("run", shell_complete=complete_runs)
@click.option(
    "--codec",
    type=click.Choice(["blosc", "pcodec", "int8", "raw"]),
    default="blosc",
    show_default=True,
    help="blosc (zstd, shuffled) and pcodec are lossless; int8 is lossy, with one scale per row.",
)
@cpu_engine_options
@root_option
@json_option
@takes(CompactOptions)
def compact(asked: CompactOptions) -> None:
    """Rewrite RUN with a codec. Queries and fits work as before; int8 loses precision, and the run records it.

    Queries, fits and steering go on meanwhile; workers run at a low priority. An interrupted compaction is resumed by the same
    command, with whatever engine; the bytes do not depend on it.

    \b
    steercache cache compact smollm2-concepts --codec blosc
    """
    from steercache.api.cache import open_cache_at

    codec, as_json = asked.codec, asked.as_json
    with progress_bar("compacting", total=None, unit="shards", quiet=as_json) as bar:
        done = open_cache_at(asked.root).compact(
            asked.run,
            codec=codec,
            workers=asked.workers,
            engine=asked.engine,
            address=asked.address,
            cpus_per_worker=asked.cpus_per_worker,
            progress=bar.show,
            on_note=note,
        )
    if as_json:
        print_json(done)
        return
    share = done.n_bytes_after / done.n_bytes_before
    click.echo(
        f"{done.generation} ({codec}): {human_bytes(done.n_bytes_before)} -> {human_bytes(done.n_bytes_after)} ({share:.0%})"
    )
    if done.error:
        note("int8 error: " + ", ".join(f"{name} {value:.4g}" for name, value in done.error.items()))
    next_commands("steercache cache gc        # frees the old generation")


@cache.command()
@click.argument("run", shell_complete=complete_runs)
@click.option("--shards", is_flag=True, help="Remove only the damaged shards; the next build computes them again.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@root_option
@json_option
def rm(run: str, shards: bool, yes: bool, root: Path, as_json: bool) -> None:
    """Remove RUN and its rows; vectors that were fitted from it stay.

    \b
    steercache cache rm smollm2-concepts --yes
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.maintenance import build_command

    opened = open_cache_at(root)
    run_id, name = opened.run_to_remove(run)
    if shards:
        damaged = opened.remove(run_id, damaged_shards_only=True).shards
        if as_json:
            print_json({"run_id": run_id, "name": name, "shards": damaged})
            return
        click.echo(
            f"{len(damaged)} damaged shards of {name} un-committed{': ' if damaged else ''}{', '.join(map(str, damaged))}"
        )
        if damaged:
            next_commands(build_command(name))
        return
    if as_json and not yes:
        raise UsageError(
            "with --json there is no question: confirm with --yes",
            hint=f"steercache cache rm {shlex.quote(name)} --yes --json",
        )
    if not yes:
        _ask(f"remove the run {name} ({run_id[:SHORT_ID]}) and its activations?", name)
    n_bytes = opened.remove(run_id).n_bytes
    if as_json:
        print_json({"run_id": run_id, "name": name, "n_bytes": n_bytes})
        return
    click.echo(f"removed {name}, {human_bytes(n_bytes)} freed")


@cache.command()
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@root_option
@json_option
def gc(dry_run: bool, root: Path, as_json: bool) -> None:
    """Remove what nothing refers to: old generations, half-written files, runs that never began.

    \b
    steercache cache gc --dry-run
    """
    from steercache.api.cache import open_cache_at

    items = open_cache_at(root).collect_garbage(dry_run=dry_run)
    if as_json:
        print_json(items)
        return
    for item in items:
        click.echo(f"{human_bytes(item.n_bytes):>10}  {item.path.relative_to(root)}  ({item.reason})")
    verb = "would be freed" if dry_run else "freed"
    click.echo(f"{human_bytes(sum(item.n_bytes for item in items))} {verb}")


def _ask(question: str, name: str) -> None:
    """Go on after a yes. Raises click.Abort after a no, UsageError where nobody answers."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise
        click.echo(err=True)  # ends the line of the question
        hint = f"steercache cache rm {shlex.quote(name)} --yes"
        raise UsageError("nothing was removed: there is no terminal to confirm at", hint=hint) from None
    if not agreed:
        raise click.Abort
