"""Manifests: checked with every name in them, listed, and described by their JSON schemas."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steercache.core.errors import ManifestError, NotFoundError, Problem
from steercache.data.benchmarks import BENCHMARKS
from steercache.data.benchmarks.own import is_own_file
from steercache.data.stream import open_dataset
from steercache.manifests.documents import DatasetManifest, Manifest, RecipeManifest, SaeManifest, SweepManifest
from steercache.manifests.load import SUFFIXES, manifest_files, read_manifest
from steercache.manifests.load import find_manifest as find_manifest
from steercache.manifests.problems import close_match
from steercache.manifests.resolve import check_file
from steercache.manifests.schema import json_schema as json_schema
from steercache.manifests.schema import schema_text as schema_text
from steercache.manifests.tree import read_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedManifest:
    """A manifest in one line. `kind` is "invalid" for one with problems, `about` names what it uses."""

    kind: str
    name: str
    about: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedDocument:
    """A manifest that is right."""

    file: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedManifests:
    """The manifests that are right, and every problem of the others."""

    documents: tuple[CheckedDocument, ...]
    problems: tuple[Problem, ...]


def check_manifests(files: Sequence[str], *, search: Sequence[Path] = (), rows: bool = False) -> CheckedManifests:
    """Check manifests, by file, folder or name, with every name in them; `rows` reads every row of data sets too.

    Raises:
        NotFoundError: no such file or name, or a folder without manifests.
    """
    documents: list[CheckedDocument] = []
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
            documents.append(CheckedDocument(file=str(path), kind=document.kind, name=document.name))
    return CheckedManifests(documents=tuple(documents), problems=tuple(dict.fromkeys(problems)))


def list_manifests(*, kind: str | None = None, search: Sequence[Path] = ()) -> list[ListedManifest]:
    """The manifests that can be named, of one kind or of all: those of the folders of `search`, then the shipped ones."""
    found = [_summary(path) for path in manifest_files(search)]
    return [one for one in found if kind in (None, one.kind)]


def show_manifest(name: str, *, search: Sequence[Path] = ()) -> tuple[Path, Manifest]:
    """The file that a name means, and its document with every default filled in. Raises NotFoundError, ManifestError."""
    path = find_manifest(name, search=search)
    return path, read_manifest(path)


def _paths(files: Sequence[str], search: Sequence[Path]) -> list[Path]:
    """What was named; a folder means every manifest in it."""
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


def _summary(path: Path) -> ListedManifest:
    """One line about a manifest; an invalid one is listed as such."""
    try:
        document = read_manifest(path)
    except ManifestError as error:
        about = f"{len(error.problems)} problems: {path}"
        return ListedManifest(kind="invalid", name=path.stem, about=about, file=str(path))
    return ListedManifest(kind=document.kind, name=document.name, about=_about(document), file=str(path))


def _about(document: Manifest) -> str:
    if document.kind == "trace":
        model = document.model if isinstance(document.model, str) else document.model.name
        names = [d if isinstance(d, str) else d.name for d in document.datasets]
        return f"{model} on {', '.join(names)}"
    if document.kind == "sweep":
        tasks = [f"{task.benchmark} {task.task or ''}".strip() for task in document.tasks]
        model = document.model if isinstance(document.model, str) else getattr(document.model, "zoo", "its own model")
        return f"{model} on {', '.join(tasks)}"
    if isinstance(document, RecipeManifest):
        return document.summary
    if isinstance(document, SaeManifest):
        place = getattr(document.source, "release", None) or getattr(document.source, "folder", None)
        layers = f", {len(document.saes)} layers" if document.saes else ""
        return f"{document.source.type} {place}{layers}"
    source = document.source
    detail = getattr(source, "id", None) or getattr(source, "path", None) or getattr(source, "file", None)
    return f"{source.type} {detail or ''}".strip()
