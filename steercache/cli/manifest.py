"""`steercache manifest`: check documents, list and show them, print the schema that editors use."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from steercache.cli.options import json_option
from steercache.cli.streams import say
from steercache.core.errors import ManifestError, NotFoundError, Problem
from steercache.data.benchmarks import BENCHMARKS
from steercache.data.benchmarks.own import is_own_file
from steercache.data.stream import open_dataset
from steercache.manifests.documents import KINDS, DatasetManifest, Manifest, SweepManifest
from steercache.manifests.load import SUFFIXES, find_manifest, manifest_files, read_manifest
from steercache.manifests.problems import close_match
from steercache.manifests.resolve import check_file
from steercache.manifests.schema import json_schema, schema_text
from steercache.manifests.tree import read_tree

search_option = click.option(
    "--search",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="A further folder where names are looked up; may be given several times.",
)


@click.group()
def manifest() -> None:
    """Check manifests; list and show them; print their JSON schema.

    \b
    steercache manifest check my-trace.yaml
    steercache manifest show smollm2-concepts
    """


@manifest.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--rows", is_flag=True, help="Read every row of data sets too.")
@search_option
@json_option
def check(files: tuple[str, ...], rows: bool, search: tuple[Path, ...], as_json: bool) -> None:
    """Check manifests, by file, folder or name, with every name in them; says all that is wrong at once.

    \b
    steercache manifest check my-trace.yaml
    steercache manifest check --rows concepts
    """
    documents: list[dict[str, str]] = []
    problems: list[Problem] = []
    for path in _paths(files, search):
        try:
            document = check_file(path, search=search)
            if rows and isinstance(document, DatasetManifest):
                open_dataset(document, base_dir=path.parent).check()
            if isinstance(document, SweepManifest):
                _check_tasks(document, path)
        except ManifestError as error:
            problems += error.problems or [Problem(loc="", kind="invalid", message=error.message, file=str(path))]
        except NotFoundError as error:
            problems.append(Problem(loc="source", kind="not_found", message=str(error.message), file=error.place))
        else:
            documents.append({"file": str(path), "kind": document.kind, "name": document.name})
    problems = list(dict.fromkeys(problems))
    if as_json:
        found = [asdict(problem) for problem in problems]
        click.echo(json.dumps({"ok": not problems, "documents": documents, "problems": found}, indent=2))
        click.get_current_context().exit(ManifestError.exit_code if problems else 0)
    for line in documents:
        click.echo(f"ok: {line['kind']} {line['name']} ({line['file']})")
    if problems:
        raise ManifestError(f"{len(problems)} problem{'s' * (len(problems) > 1)} found", problems=problems)


@manifest.command("list")
@click.option("--kind", type=click.Choice(list(KINDS)), help="Only this kind.")
@search_option
@json_option
def list_(kind: str | None, search: tuple[Path, ...], as_json: bool) -> None:
    """List the manifests that can be named: those in --search folders and the shipped ones.

    \b
    steercache manifest list --kind model
    """
    rows = [_summary(path) for path in manifest_files(search)]
    rows = [row for row in rows if kind in (None, row["kind"])]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['kind']:8} {row['name']:{width}}  {row['about']}".rstrip())


@manifest.command()
@click.argument("name")
@search_option
@json_option
def show(name: str, search: tuple[Path, ...], as_json: bool) -> None:
    """Print a manifest: the file as written, or with --json the document with every default filled in.

    \b
    steercache manifest show smollm2-concepts
    """
    path = find_manifest(name, search=search)
    document = read_manifest(path)
    if as_json:
        click.echo(json.dumps(document.model_dump(mode="json"), indent=2))
    else:
        say(f"# {path}")
        click.echo(path.read_text(encoding="utf-8-sig").rstrip())


@manifest.command()
@click.argument("kind")
@json_option
def schema(kind: str, as_json: bool) -> None:
    """Print the JSON schema of a kind of manifest: model, dataset, trace or sweep.

    \b
    steercache manifest schema trace > trace.schema.json
    """
    click.echo(json.dumps(json_schema(kind)) if as_json else schema_text(kind).rstrip())


def _paths(files: tuple[str, ...], search: tuple[Path, ...]) -> list[Path]:
    """What was named on the command line; a folder means every manifest in it."""
    paths: list[Path] = []
    for name in files:
        folder = Path(name)
        inside = sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES) if folder.is_dir() else []
        if folder.is_dir() and not inside:
            raise NotFoundError("there is no manifest in this folder", place=name)
        paths += inside or [find_manifest(name, search=search)]
    return paths


def _check_tasks(sweep: SweepManifest, path: Path) -> None:
    """Raise ManifestError for benchmarks and tasks of a sweep that do not exist; their files are not looked for."""
    problems = []
    tree = read_tree(path.read_text(encoding="utf-8-sig"), file=str(path))
    for i, task in enumerate(sweep.tasks):
        known = BENCHMARKS.get(task.benchmark)
        if is_own_file(task.benchmark):
            continue
        if known is not None and task.task in (None, *known.tasks):
            continue
        field = "benchmark" if known is None else "task"
        named, names = (task.benchmark, BENCHMARKS) if known is None else (str(task.task), known.tasks)
        message = f"{named!r} is none of {', '.join(names)}{close_match(named, names)}"
        line = tree.line(("tasks", i, field))
        problems.append(
            Problem(loc=f"tasks.{i}.{field}", kind="unknown_reference", message=message, file=str(path), line=line)
        )
    if problems:
        raise ManifestError("this manifest is not valid", problems=problems, place=str(path))


def _summary(path: Path) -> dict[str, Any]:
    """One line about a manifest; an invalid one is listed as such."""
    try:
        document = read_manifest(path)
    except ManifestError as error:
        n = len(error.problems)
        return {"kind": "invalid", "name": path.stem, "about": f"{n} problems: {path}", "file": str(path)}
    return {"kind": document.kind, "name": document.name, "about": _about(document), "file": str(path)}


def _about(document: Manifest) -> str:
    if document.kind == "trace":
        model = document.model if isinstance(document.model, str) else document.model.name
        names = [d if isinstance(d, str) else d.name for d in document.datasets]
        return f"{model} on {', '.join(names)}"
    if document.kind == "sweep":
        tasks = [f"{task.benchmark} {task.task or ''}".strip() for task in document.tasks]
        model = document.model if isinstance(document.model, str) else getattr(document.model, "zoo", "its own model")
        return f"{model} on {', '.join(tasks)}"
    source = document.source
    detail = getattr(source, "id", None) or getattr(source, "path", None) or getattr(source, "file", None)
    return f"{source.type} {detail or ''}".strip()
