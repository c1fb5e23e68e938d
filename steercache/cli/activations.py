"""`steercache activations`: in from other engines, out to other tools, and parts of runs as caches of their own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from steercache.cli.completion import complete_models, complete_queries, complete_runs, complete_traces
from steercache.cli.options import (
    LocalPath,
    RenamedOption,
    json_option,
    parse_bindings,
    parse_layers,
    root_option,
    takes,
)
from steercache.cli.output import human_bytes, next_commands, note, print_json, progress_bar
from steercache.core.ids import SHORT_ID

FORMATS = ("vllm", "speculators", "vllm-lens", "sae-lens", "torch", "npy", "safetensors")


@click.group()
def activations() -> None:
    """Take in activations that other engines captured; write rows for other tools; copy parts of runs.

    \b
    steercache activations import hidden_states/ --from vllm --trace smollm2-concepts --entries 1,15,30
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """The options of `activations import`."""

    source: Path
    source_format: Any
    trace: str | None
    model: str | None
    n_layers: int | None
    requests: Path | None
    entries: str | None
    numbering: Literal["states", "blocks"] | None
    last: Literal["block", "norm"] | None
    layers: str | None
    rows: str | None
    dtype: Any
    name: str | None
    leave_out: tuple[str, ...]
    duplicates: Literal["refuse", "first", "keep"]
    allow_non_finite: bool
    embedding: bool
    verify: int
    device: str
    root: Path
    as_json: bool


@activations.command("import")
@click.argument("source", metavar="FOLDER", type=LocalPath(path_type=Path))
@click.option("--from", "source_format", type=click.Choice(FORMATS), required=True, help="What wrote the files.")
@click.option(
    "--trace",
    shell_complete=complete_traces,
    help="Trace manifest whose data sets were sent to the engine: its samples are found by their token ids, and the run has"
    " its labels, rows and layers.",
)
@click.option("--model", shell_complete=complete_models, help="Model whose activations these are, without a trace.")
@click.option(
    "--n-layers",
    type=click.IntRange(1, 9999),
    help="Number of blocks of a model that is not here; --model is its name.",
)
@click.option(
    "--requests",
    type=LocalPath(path_type=Path, dir_okay=False),
    help='JSON lines {"id", "token_ids", "text"} of what was sent: the order, and what has to be there.',
)
@click.option(
    "--entries",
    help="Numbers of the captured layers in the files' order, such as 1,15,30 (vLLM: the layer ids it was given).",
)
@click.option(
    "--numbering",
    type=click.Choice(["states", "blocks"]),
    help="How entries are counted. states: 0 is the embedding, k the output of block k - 1; blocks: k the output of block k.",
)
@click.option(
    "--last",
    type=click.Choice(["block", "norm"]),
    help="What the entry of the last block is: the block's output, or the final norm's.",
)
@click.option(
    "--layer",
    "layers",
    cls=RenamedOption,
    former=["--layers"],
    help="Keep the outputs of these blocks only, such as 5,10-12.",
)
@click.option(
    "--rows",
    type=click.Choice(["all", "last", "text", "image", "pooled"]),
    help="Rows to keep.  [default: all, or the trace's]",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Convert the values; by default as they are."
)
@click.option("--name", help="Name of the run; by default the trace's with the format, or the folder's.")
@click.option(
    "--leave-out", multiple=True, metavar="ID", help="A sample that is not taken in; may be given several times."
)
@click.option(
    "--duplicates",
    type=click.Choice(["refuse", "first", "keep"]),
    default="refuse",
    show_default=True,
    help="What to do with requests that have the same tokens.",
)
@click.option("--allow-non-finite", is_flag=True, help="Take in rows with infinities or NaN; they are counted.")
@click.option("--embedding", is_flag=True, help="Keep the embedding, too, as resid_pre of block 0.")
@click.option(
    "--verify",
    type=click.IntRange(0, 10_000),
    default=0,
    show_default=True,
    help="Trace so many samples with the model here and compare every entry; finds layers that are not declared.",
)
@click.option("--device", default="auto", show_default=True, help="Device of the model for --verify.")
@root_option
@json_option
@takes(ImportOptions)
def import_command(asked: ImportOptions) -> None:
    """Take in the hidden states in FOLDER, which another engine wrote, as a run of the cache.

    Rows and token ids that differ in number (prefix caching), missing and duplicate requests, mixed dtypes, files that were cut
    and values that are not finite are errors that name the samples; nothing is written then. What the files do not say (which
    layers, whether the last is behind the final norm) has to be given, or is found by --verify.

    \b
    steercache activations import hidden_states/ --from vllm --trace smollm2-concepts --entries 1,15,30
    """
    from steercache.api.cache import open_cache_at

    with progress_bar("reading files", total=None, unit="rows", quiet=asked.as_json) as bar:
        run = open_cache_at(asked.root, create=True).import_activations(
            asked.source,
            source_format=asked.source_format,
            trace=asked.trace,
            model=asked.model,
            n_layers=asked.n_layers,
            requests=asked.requests,
            entries=parse_layers(asked.entries),
            numbering=asked.numbering,
            last=asked.last,
            layers=parse_layers(asked.layers),
            rows=asked.rows,
            dtype=asked.dtype,
            name=asked.name,
            leave_out=asked.leave_out,
            duplicates=asked.duplicates,
            allow_non_finite=asked.allow_non_finite,
            embedding=asked.embedding,
            verify=asked.verify,
            device=asked.device,
            progress=bar.show,
            on_note=note,
        )
    if asked.as_json:
        print_json(
            {
                n: getattr(run, n)
                for n in ("run_id", "name", "sites", "n_samples", "n_rows", "n_bytes", "seconds", "notes")
            }
            | {"n_shards_built": run.n_shards_built, "n_shards_kept": run.n_shards_kept}
        )
        return
    did = "took in" if run.n_shards_built else "everything was taken in already:"
    sites = ", ".join(f"{site} x {len(layers)}" for site, layers in run.sites.items())
    click.echo(f"{run.name}  {run.run_id[:SHORT_ID]}  {did} {run.n_samples:,} samples, {run.n_rows:,} rows, {sites}")
    click.echo(f"{human_bytes(run.n_bytes or 0)} in {run.seconds:.1f} s")
    if run.index_held_by:
        note(f"the index could not be written ({run.index_held_by}); it catches up with the next command")
    next_commands("steercache query runs_overview", f"steercache cache verify {run.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The options of `activations export`."""

    query: str
    path: Path
    params: tuple[str, ...]
    run: str | None
    site: str
    layers: str | None
    file_format: Any
    root: Path
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """The options of `activations copy`."""

    run: str
    target: Path
    layers: str | None
    query: str | None
    params: tuple[str, ...]
    root: Path
    as_json: bool


_param_option = click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Value of a parameter of the query; repeatable.",
)


@activations.command("export")
@click.argument("query", shell_complete=complete_queries)
@click.argument("path", metavar="FILE", type=LocalPath(path_type=Path))
@_param_option
@click.option("--run", shell_complete=complete_runs, help="Run of a query that leaves it open.")
@click.option("--site", default="resid_post", show_default=True, help="Site of the rows.")
@click.option(
    "--layer",
    "layers",
    cls=RenamedOption,
    former=["--layers"],
    help="Layers to write, such as 5,10-12; by default all.",
)
@click.option(
    "--to",
    "file_format",
    type=click.Choice(["parquet", "arrow", "datasets", "safetensors", "npy"]),
    help="Format; by default what the suffix of FILE says. datasets and npy are folders.",
)
@root_option
@json_option
@takes(ExportOptions)
def export_command(asked: ExportOptions) -> None:
    """Write the rows that QUERY selects, with their tokens, into FILE for other tools.

    Values are float32, which is exact for every stored value; in safetensors they have the dtype they are stored in.

    \b
    steercache activations export anchor_vs_control counting.parquet -p concept=counting --layer 5,6
    """
    from steercache.api.cache import open_cache_at

    cache = open_cache_at(asked.root)
    bindings = parse_bindings(asked.params, typed=len(asked.query.split()) <= 1)
    selection = cache.select(asked.query, run=asked.run, site=asked.site, **bindings)
    done = cache.export(selection, asked.path, layers=parse_layers(asked.layers), file_format=asked.file_format)
    if asked.as_json:
        print_json(done)
        return
    n_layers = f"{len(done.layers)} layer{'s' * (len(done.layers) > 1)}"
    click.echo(f"{done.path}: {done.n_rows:,} rows, {n_layers}, {human_bytes(done.n_bytes)} as {done.file_format}")


@activations.command("copy")
@click.argument("run", shell_complete=complete_runs)
@click.argument("target", metavar="FOLDER", type=LocalPath(path_type=Path, file_okay=False))
@click.option(
    "--layer", "layers", cls=RenamedOption, former=["--layers"], help="Layers to copy, such as 5,10-12; by default all."
)
@click.option("--query", shell_complete=complete_queries, help="Copy only the rows that this query selects.")
@_param_option
@root_option
@json_option
@takes(CopyOptions)
def copy_command(asked: CopyOptions) -> None:
    """Copy some layers or rows of RUN into the cache FOLDER, which is made where there is none.

    The part is a run of its own that names the run it is a part of; its samples and tokens stay whole. An interrupted copy goes
    on with the same command.

    \b
    steercache activations copy smollm2-concepts part/ --layer 4-6
    """
    from steercache.api.cache import open_cache_at

    cache = open_cache_at(asked.root)
    selection = None
    if asked.query is not None:
        bindings = parse_bindings(asked.params, typed=len(asked.query.split()) <= 1)
        selection = cache.select(asked.query, run=asked.run, **bindings)
    with progress_bar("copying", total=None, unit="rows", quiet=asked.as_json) as bar:
        part = cache.copy_part(
            asked.run, asked.target, layers=parse_layers(asked.layers), selection=selection, progress=bar.show
        )
    if asked.as_json:
        print_json({name: getattr(part, name) for name in ("run_id", "name", "sites", "n_samples", "n_rows")})
        return
    sites = ", ".join(f"{site} x {len(kept)}" for site, kept in part.sites.items())
    click.echo(f"{part.name}  {part.run_id[:SHORT_ID]}  {part.n_rows:,} rows, {sites} in {asked.target}")
    next_commands(f"steercache cache status --root {asked.target}")
