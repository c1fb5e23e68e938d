"""`steercache vectors export`, `import`, `suggest` and `schema`: vectors to other tools, and from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import click

from steercache.cli.completion import complete_runs, complete_sweeps, complete_vectors
from steercache.cli.options import LocalPath, json_option, one_target, parse_layers, root_option, takes
from steercache.cli.output import next_commands, note, print_json
from steercache.core.ids import SHORT_ID
from steercache.core.trials import AlphaUnit
from steercache.core.vector_use import OPERATIONS, PHASES, PLACES, OperationName, Phase

WRITTEN = ("gguf", "steering-vectors", "lm-eval", "saklas", "easysteer", "vllm-lens", "pytorch", "npz", "safetensors")
READ = (*WRITTEN, "textsteersvision")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is written, and how, as typed."""

    name: str
    to: str | None
    output: Path
    layers: str | None
    operation: OperationName | None
    strength: float | None
    strength_unit: AlphaUnit | None
    target: str | None
    phase: Phase | None
    skip_first: bool | None
    scaled: bool
    blocks: str | None
    overwrite: bool
    root: Path
    as_json: bool


@click.command("export")
@click.argument("name", shell_complete=complete_vectors)
@click.option(
    "--to", type=click.Choice(WRITTEN), help="Format. Default: what the file's name ends in, if one has that."
)
@click.option("-o", "--output", type=LocalPath(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option(
    "--layer", "layers", help="Blocks (from 0) that are steered, such as 12 or 8-12, or all. Default: those of its use."
)
@click.option("--operation", type=click.Choice(list(OPERATIONS)), help="State this operation in the place of its own.")
@click.option("--strength", type=float, help="State this strength in the place of its own.")
@click.option(
    "--strength-unit", type=click.Choice(get_args(AlphaUnit)), help="Unit of the stated strength.  [default: raw]"
)
@click.option(
    "--target",
    callback=one_target,
    metavar="[image|text|both|all|last|sql: ...]",
    help="State these tokens in the place of its own.",
)
@click.option("--phase", type=click.Choice(list(PHASES)), help="State this phase in the place of its own.")
@click.option("--skip-first/--no-skip-first", default=None, help="State whether the first token is left alone.")
@click.option("--scaled", is_flag=True, help="Write the values times the strength, where the file holds no strength.")
@click.option("--blocks", help="Path of the blocks below model.base_model (lm-eval, pytorch).  [default: layers]")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@root_option
@json_option
@takes(ExportOptions)
def export_command(options: ExportOptions) -> None:
    """Write vector NAME in another tool's format; refused, with the reason, where the format cannot express it.

    \b
    steercache vectors export counting --to gguf --layer 5 -o counting.gguf
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.exchanging import UseChange, changed_use, export_vector

    vector = open_cache_at(options.root).vector(options.name)
    change = UseChange(
        operation=options.operation,
        strength=options.strength,
        strength_unit=options.strength_unit,
        target=options.target,
        phase=options.phase,
        skip_first=options.skip_first,
    )
    layers: Any = None if options.layers is None else "all" if options.layers == "all" else parse_layers(options.layers)
    done = export_vector(
        vector,
        options.output,
        to=options.to,
        use=changed_use(vector, change),
        layers=layers,
        scaled=options.scaled,
        blocks=options.blocks,
        overwrite=options.overwrite,
    )
    if options.as_json:
        print_json(done)
        return
    for path in done.paths:
        click.echo(str(path))
    for sentence in done.notes:
        note(sentence)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Which file, and what is known of it, as typed."""

    file: Path
    source: str | None
    site: str | None
    layer_offset: int | None
    norm: Literal["keep", "unit"] | None
    layers: str | None
    name: str | None
    concept: str | None
    run: str | None
    query: str | None
    check_layer_offset: bool
    ignore_header: bool
    root: Path
    as_json: bool


@click.command("import")
@click.argument("file", type=LocalPath(path_type=Path))
@click.option(
    "--from", "source", type=click.Choice(READ), help="Format. Default: by the file's name, where that says it."
)
@click.option("--site", type=click.Choice(list(PLACES)), help="Where in a block it was measured.")
@click.option("--layer-offset", type=int, help="Block = number in the file + offset.")
@click.option("--norm", type=click.Choice(["keep", "unit"]), help="keep: its lengths count; unit: bring them to 1.")
@click.option("--layer", "layers", help="Numbers of the rows of a file that does not number them, such as 12 or 0-25.")
@click.option("--name", help="Name in the cache. Default: the file's, or the exported vector's.")
@click.option("--concept", help="Concept that it stands for.")
@click.option("--run", shell_complete=complete_runs, help="A run of the model that it belongs to.")
@click.option("--query", help="Selection whose mean differences the layers are compared with.")
@click.option("--check-layer-offset", is_flag=True, help="Find the offset from cached activations of the concept.")
@click.option("--ignore-header", is_flag=True, help="Take a file of steercache for one of another tool.")
@root_option
@json_option
@takes(ImportOptions)
def import_command(options: ImportOptions) -> None:
    """Read a vector from another tool's FILE into the cache; what the file does not say must be given.

    \b
    steercache vectors import counting.gguf --name counting-again
    """
    from steercache.api.cache import open_cache_at
    from steercache.api.exchanging import ImportTerms, take_in

    cache = open_cache_at(options.root)
    terms = ImportTerms(
        site=options.site,
        layer_offset=options.layer_offset,
        norm=options.norm,
        layers=None if (layers := parse_layers(options.layers)) is None else tuple(layers),
        name=options.name,
        concept=options.concept,
        ignore_header=options.ignore_header,
    )
    taken, check = take_in(
        cache.session,
        options.file,
        source=options.source,
        terms=terms,
        run=options.run,
        query=options.query,
        check_layer_offset=options.check_layer_offset,
    )
    vector = taken.vector
    if options.as_json:
        said = {"vector_id": vector.vector_id, "name": vector.name, "layers": vector.layers, "same_id": taken.same_id}
        print_json(said | {"lost": taken.lost, "notes": taken.notes, "layer_offset": check})
        return
    same = "the vector that was exported" if taken.same_id else "a vector"
    click.echo(
        f"{vector.name}: {same}, {vector.vector_id[:SHORT_ID]}, {len(vector.layers)} layers of {vector.hidden_size}"
    )
    for sentence in (
        *(f"lost: {one}" for one in taken.lost),
        *taken.notes,
        *([f"layer offset: {check.why}"] if check else []),
    ):
        note(sentence)
    next_commands(f"steercache vectors show {vector.vector_id[:SHORT_ID]}")


@click.command("suggest")
@click.argument("name", shell_complete=complete_vectors)
@click.option("--sweep", shell_complete=complete_sweeps, required=True, help="Sweep that chose a cell for it.")
@root_option
@json_option
def suggest_command(name: str, sweep: str, root: Path, as_json: bool) -> None:
    """Give vector NAME the use that a sweep suggests: its chosen layer, strength and tokens, with the damage measured there.

    \b
    steercache vectors suggest counting --sweep demo-relation
    """
    from steercache.api.cache import open_cache_at

    vector = open_cache_at(root).suggest_use(name, sweep)
    assert vector.use is not None
    if as_json:
        print_json(vector.use.to_json())
        return
    click.echo(f"{vector.name}: {vector.use}")
    next_commands(f"steercache vectors show {vector.vector_id[:SHORT_ID]}")


@click.command("schema")
def schema_command() -> None:
    """Print the JSON schema of the header of a vector's file.

    \b
    steercache vectors schema
    """
    from steercache.api.exchanging import vector_schema_text

    click.echo(vector_schema_text(), nl=False)
