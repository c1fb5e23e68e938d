"""A trace or a sweep with everything that it names, and the folders that paths are relative to."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from steercache.core.errors import ManifestError, NotFoundError, Problem
from steercache.manifests.documents import (
    DatasetManifest,
    Manifest,
    ModelManifest,
    SaeManifest,
    SweepManifest,
    TraceManifest,
)
from steercache.manifests.load import FOLDERS, find_manifest, read_manifest
from steercache.manifests.sweep import ZooModel
from steercache.manifests.tree import read_tree

M = TypeVar("M", ModelManifest, DatasetManifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located(Generic[M]):
    """A document, and the folder that paths in it are relative to."""

    document: M
    base_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTrace:
    """A trace manifest and the documents it names; `backbone` is that of its model."""

    trace: TraceManifest
    model: Located[ModelManifest]
    datasets: tuple[Located[DatasetManifest], ...]
    backbone: Located[ModelManifest] | None = None


def resolve_trace(path_or_name: str | Path, *, search: Iterable[Path] = ()) -> ResolvedTrace:
    """A trace manifest with everything that it names, looked up beside it, in `search`, then among the shipped ones.

    Raises:
        NotFoundError: there is no such trace manifest.
        ManifestError: with every problem of the trace and of the documents that it names.
    """
    path = find_manifest(path_or_name, kind="trace", search=search)
    trace = read_manifest(path, kind="trace")
    assert isinstance(trace, TraceManifest)
    return resolve_trace_document(trace, place=path, search=search)


def resolve_trace_document(trace: TraceManifest, *, place: Path, search: Iterable[Path] = ()) -> ResolvedTrace:
    """As `resolve_trace`, of a manifest object; names are looked up, and paths start, at the folder of `place`.

    Raises:
        ManifestError: with every problem of the trace and of the documents that it names.
    """
    lookup = _Lookup(path=place, search=(*beside(place), *search), problems=[])
    model = lookup.located(trace.model, ("model",), ModelManifest)
    datasets = [lookup.located(d, ("datasets", i), DatasetManifest) for i, d in enumerate(trace.datasets)]
    backbone = None
    if model is not None and model.document.backbone is not None:
        inside = ("model",) if isinstance(trace.model, str) else ("model", "backbone")
        backbone = lookup.located(model.document.backbone, inside, ModelManifest)
    if lookup.problems or model is None:
        raise ManifestError("this manifest is not valid", problems=lookup.problems, place=str(place))
    return ResolvedTrace(trace=trace, model=model, datasets=tuple(d for d in datasets if d), backbone=backbone)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSweep:
    """A sweep manifest, the folder that its paths are relative to, and its model's manifest (None: one of the zoo's)."""

    sweep: SweepManifest
    base_dir: Path
    model: Located[ModelManifest] | None


def resolve_sweep(path_or_name: str | Path, *, search: Iterable[Path] = ()) -> ResolvedSweep:
    """A sweep manifest with its model, looked up beside it, in `search`, then among the shipped ones.

    Vectors and runs belong to a cache, which is not opened here.

    Raises:
        NotFoundError: there is no such sweep manifest.
        ManifestError: with every problem of the sweep and of the model's manifest.
    """
    path = find_manifest(path_or_name, kind="sweep", search=search)
    sweep = read_manifest(path, kind="sweep")
    assert isinstance(sweep, SweepManifest)
    lookup = _Lookup(path=path, search=(*beside(path), *search), problems=[])
    model = None if isinstance(sweep.model, ZooModel) else lookup.located(sweep.model, ("model",), ModelManifest)
    if model is not None and model.document.backbone is not None:
        inside = ("model",) if isinstance(sweep.model, str) else ("model", "backbone")
        lookup.located(model.document.backbone, inside, ModelManifest)
    if lookup.problems:
        raise ManifestError("this manifest is not valid", problems=lookup.problems, place=str(path))
    return ResolvedSweep(sweep=sweep, base_dir=path.resolve().parent, model=model)


def check_file(path: Path, *, search: Iterable[Path] = ()) -> Manifest:
    """The manifest in a file, with every name in it resolved.

    Raises:
        NotFoundError: there is no such file.
        ManifestError: with every problem of it and of what it names.
    """
    document = read_manifest(path)
    if isinstance(document, TraceManifest):
        resolve_trace(path, search=search)
    elif isinstance(document, SweepManifest):
        resolve_sweep(path, search=search)
    elif isinstance(document, ModelManifest) and document.backbone is not None:
        _check_model(path, document.backbone, "backbone", search)
    elif isinstance(document, SaeManifest) and document.model is not None:
        _check_model(path, document.model, "model", search)
    return document


def _check_model(path: Path, name: str, field: str, search: Iterable[Path]) -> None:
    lookup = _Lookup(path=path, search=(*beside(path), *search), problems=[])
    lookup.located(name, (field,), ModelManifest)
    if lookup.problems:
        raise ManifestError("this manifest is not valid", problems=lookup.problems, place=str(path))


def beside(path: Path) -> tuple[Path, ...]:
    """Folders where a manifest's neighbours are: its own, and the one around it when it lies in `traces/` and the like."""
    folder = path.resolve().parent
    return (folder, folder.parent) if folder.name in FOLDERS else (folder,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lookup:
    """Finds what one manifest names, and gathers what is wrong with it."""

    path: Path
    search: tuple[Path, ...]
    problems: list[Problem]

    def located(self, named: str | M, place: tuple[str | int, ...], document: type[M]) -> Located[M] | None:
        """The document with its folder; None when it is not there or not valid, which is noted."""
        if not isinstance(named, str):
            return Located(document=named, base_dir=self.path.resolve().parent)
        kind = "model" if document is ModelManifest else "dataset"
        try:
            path = find_manifest(named, kind=kind, search=self.search)
            found = read_manifest(path, kind=kind)
        except NotFoundError as error:
            self._note(place, "unknown_reference", error.message)
            return None
        except ManifestError as error:
            self.problems.extend(error.problems)
            return None
        assert isinstance(found, document)
        if found.name != named:
            self._note(place, "unknown_reference", f"{path} calls itself {found.name!r}, not {named!r}")
        return Located(document=found, base_dir=path.resolve().parent)

    def _note(self, place: tuple[str | int, ...], kind: str, message: str) -> None:
        line = None
        if self.path.is_file():  # a manifest object made in Python has no file
            line = read_tree(self.path.read_text(encoding="utf-8-sig"), file=str(self.path)).line(place)
        loc = ".".join(str(part) for part in place)
        self.problems.append(Problem(loc=loc, kind=kind, message=message, file=str(self.path), line=line))
