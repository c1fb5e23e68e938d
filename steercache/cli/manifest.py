"""`steercache manifest`: check documents, list and show them, print the schema that editors use."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from steercache.cli.completion import complete_manifests
from steercache.cli.options import LocalPath, json_option
from steercache.cli.streams import say
from steercache.core.errors import ManifestError

KINDS = ("model", "dataset", "trace", "sweep", "sae", "recipe")

search_option = click.option(
    "--search",
    type=LocalPath(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="Additional folder in which names are looked up; repeatable.",
)


@click.group()
def manifest() -> None:
    """Check manifests; list and show them; print their JSON schema.

    \b
    steercache manifest check my-trace.yaml
    steercache manifest show smollm2-concepts
    """


@manifest.command()
@click.argument("files", nargs=-1, required=True, shell_complete=complete_manifests)
@click.option("--rows", is_flag=True, help="Also read every row of the data sets.")
@search_option
@json_option
def check(files: tuple[str, ...], rows: bool, search: tuple[Path, ...], as_json: bool) -> None:
    """Check manifests, by file, folder or name, and all that they name; every problem is reported at once.

    \b
    steercache manifest check my-trace.yaml
    steercache manifest check --rows concepts
    """
    from steercache.api.manifests import check_manifests

    checked = check_manifests(files, search=search, rows=rows)
    problems = checked.problems
    if as_json:
        documents = [asdict(document) for document in checked.documents]
        found = [asdict(problem) for problem in problems]
        click.echo(json.dumps({"ok": not problems, "documents": documents, "problems": found}, indent=2))
        click.get_current_context().exit(ManifestError.exit_code if problems else 0)
    for line in checked.documents:
        click.echo(f"ok: {line.kind} {line.name} ({line.file})")
    if problems:
        raise ManifestError(f"{len(problems)} problem{'s' * (len(problems) > 1)} found", problems=problems)


@manifest.command("list")
@click.option("--kind", type=click.Choice(list(KINDS)), help="List only manifests of this kind.")
@search_option
@json_option
def list_(kind: str | None, search: tuple[Path, ...], as_json: bool) -> None:
    """List the manifests that can be used by name: shipped ones, and those in --search folders.

    \b
    steercache manifest list --kind model
    """
    from steercache.api.manifests import list_manifests

    rows = list_manifests(kind=kind, search=search)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row.kind:8} {row.name:{width}}  {row.about}".rstrip())


@manifest.command()
@click.argument("name", shell_complete=complete_manifests)
@search_option
@json_option
def show(name: str, search: tuple[Path, ...], as_json: bool) -> None:
    """Print a manifest: the file as written, or with --json the document with every default filled in.

    \b
    steercache manifest show smollm2-concepts
    """
    from steercache.api.manifests import show_manifest

    path, document = show_manifest(name, search=search)
    if as_json:
        click.echo(json.dumps(document.model_dump(mode="json"), indent=2))
    else:
        say(f"# {path}")
        click.echo(path.read_text(encoding="utf-8-sig").rstrip())


@manifest.command()
@click.argument("kind")
@json_option
def schema(kind: str, as_json: bool) -> None:
    """Print the JSON schema of a kind of manifest: model, dataset, trace, sweep, sae or recipe.

    \b
    steercache manifest schema trace > trace.schema.json
    """
    from steercache.api.manifests import json_schema, schema_text

    click.echo(json.dumps(json_schema(kind)) if as_json else schema_text(kind).rstrip())
