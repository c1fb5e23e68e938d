"""What is pushed: the files of named runs, vectors, sweeps and features."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steercache.cache.documents import RunDocument
from steercache.cache.feature_files import read_encoding_document
from steercache.cache.handle import CacheFolder
from steercache.cache.source import committed_shards, current_generation
from steercache.cache.sweep_files import MANIFEST, read_sweep_files
from steercache.cache.vectors import list_vectors
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.ids import SHORT_ID, resolve_name
from steercache.exchange.hub.clean import clean_json, clean_vector, header_of, refuse_traces
from steercache.exchange.hub.listing import Item, Kind, ListedFile, form_of

About = dict[str, str | int]
Known = Mapping[Kind, list[tuple[str, str]]]  # (id, name) by kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedFile:
    """A file as it is pushed: that of the cache, or `data` in its place where the cache's names this machine."""

    listed: ListedFile
    source: Path = field(repr=False)
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedItem:
    """An item with its files."""

    item: Item
    files: tuple[PushedFile, ...] = field(repr=False)


def gather(cache: CacheFolder, names: Sequence[str]) -> list[PushedItem]:
    """The items that `names` mean: runs, vectors, sweeps or SAEs by name, id or prefix; `vector:counting` says of which kind.

    Raises:
        NotFoundError: nothing has the name. UsageError: several kinds have it, or a run is not complete.
    """
    known = known_items(cache)
    found: dict[tuple[Kind, str], PushedItem] = {}
    for name in names:
        kind, wanted = _kind_of(name, known)
        for item_id in _ids(kind, wanted, known[kind]):
            found[kind, item_id] = _ITEMS[kind](cache, item_id)
    return list(found.values())


def known_items(cache: CacheFolder) -> Known:
    """Everything that can be pushed."""
    sweeps = [f for f in cache.paths.sweep_folders() if (f / MANIFEST).exists()]
    encodings = [(e.folder.parent.name, e.folder.name) for e in cache.paths.encodings()]
    return {
        "run": [(d.run_id, d.name) for d in cache.documents()],
        "vector": [(s.vector.vector_id, s.vector.name) for s in list_vectors(cache)],
        "sweep": [(f.name, str(read_sweep_files(f).sweep["name"])) for f in sweeps],
        "features": [(f"{sae}/{run}", sae) for sae, run in encodings],
    }


def _kind_of(name: str, known: Known) -> tuple[Kind, str]:
    for kind in known:
        if name.startswith(f"{kind}:"):
            return kind, name.partition(":")[2]
    exact = [kind for kind, pairs in known.items() if any(name in pair for pair in pairs)]
    fits = exact or [kind for kind, pairs in known.items() if name and any(i.startswith(name) for i, _ in pairs)]
    if len(fits) > 1:
        raise UsageError(f"{name!r} is the name of a {' and of a '.join(fits)}", hint=f"say which: {fits[0]}:{name}")
    if not fits:
        there = [f"{kind}: {', '.join(sorted({n for _, n in pairs})[:8])}" for kind, pairs in known.items() if pairs]
        hint = f"there are {'; '.join(there)}" if there else "build a run first"
        raise NotFoundError(f"nothing is named {name[:80]!r}", hint=hint)
    return fits[0], name


def _ids(kind: Kind, wanted: str, pairs: list[tuple[str, str]]) -> list[str]:
    if kind == "features":  # an SAE may have encoded several runs
        return [both for both, _ in pairs if both.startswith(wanted)]
    return [resolve_name(wanted, pairs, noun=kind, list_command="steercache cache status")]


def _run(cache: CacheFolder, run_id: str) -> PushedItem:
    paths, document = cache.run_paths(run_id), cache.run_document(run_id)
    generation = current_generation(paths)
    records = committed_shards(paths, generation)
    if len(records) < len(document.shards):
        raise UsageError(f"the run {document.name!r} is not complete", hint="build it to its end first")
    files = [paths.document, paths.current, *paths.generation(generation).rglob("*")]
    for record in records:
        idx = record.shard_idx
        files += [paths.tokens(idx), paths.samples(idx), paths.shard(generation, idx)]
    labels = [cache.paths.annotation(d.dataset, d.inputs_digest) for d in document.datasets]
    return _item(cache, "run", run_id, document.name, [*files, *labels], _about_run(document))


def _about_run(document: RunDocument) -> About:
    layout = document.layout
    return {
        "model": document.model.name,
        "data": ", ".join(d.dataset for d in document.datasets),
        "sites": ", ".join(f"{s.site} x {len(s.layers)}" for s in layout.sites),
        "dtype": layout.dtype,
        "samples": document.n_samples,
        "rows": document.n_rows,
        **({"part of": str(document.parent_run_id)[:SHORT_ID]} if "part_of" in document.identity else {}),
    }


def _vector(cache: CacheFolder, vector_id: str) -> PushedItem:
    vector = next(s.vector for s in list_vectors(cache) if s.vector.vector_id == vector_id)
    about: About = {"method": vector.method, "concept": vector.concept or "", "layers": len(vector.layers)}
    about |= {} if vector.fitted_on is None else {"model": vector.fitted_on.name}
    return _item(cache, "vector", vector_id, vector.name, [cache.paths.vector(vector_id)], about)


def _sweep(cache: CacheFolder, sweep_id: str) -> PushedItem:
    folder = cache.paths.sweep(sweep_id)
    found = read_sweep_files(folder)
    about: About = {"status": str(found.sweep["status"]), "cells": len(found.cells)}
    return _item(cache, "sweep", sweep_id, str(found.sweep["name"]), list(folder.rglob("*")), about)


def _features(cache: CacheFolder, both: str) -> PushedItem:
    sae, run = both.split("/")
    paths = cache.paths.encoding(sae, run)
    document = read_encoding_document(paths)
    about: About = {"site": document.site, "layer": document.layer, "run": run[:SHORT_ID]}
    return _item(cache, "features", both, sae[:SHORT_ID], list(paths.folder.rglob("*")), about)


_ITEMS: Mapping[Kind, Callable[[CacheFolder, str], PushedItem]] = {
    "run": _run,
    "vector": _vector,
    "sweep": _sweep,
    "features": _features,
}


def _item(cache: CacheFolder, kind: Kind, item_id: str, name: str, paths: Sequence[Path], about: About) -> PushedItem:
    form = re.compile(form_of(kind, item_id))
    files = []
    for path in sorted({*paths}):
        relative = path.relative_to(cache.root).as_posix()
        if form.fullmatch(relative) and path.is_file():  # locks and what a killed writer left are no part of it
            files.append(_file(cache, path, relative))
    listed = tuple(file.listed for file in files)
    return PushedItem(item=Item(kind=kind, id=item_id, name=name, about=about, files=listed), files=tuple(files))


def _file(cache: CacheFolder, path: Path, relative: str) -> PushedFile:
    if not relative.endswith((".json", ".safetensors")):
        listed = ListedFile(path=relative, n_bytes=path.stat().st_size, sha256=sha256_of(path))
        return PushedFile(listed=listed, source=path)
    raw = path.read_bytes()
    is_vector = relative.endswith(".safetensors")
    clean = clean_vector(raw) if is_vector else clean_json(raw, path.name)
    refuse_traces(header_of(clean) if is_vector else clean, cache.root, relative)
    listed = ListedFile(path=relative, n_bytes=len(clean), sha256=hashlib.sha256(clean).hexdigest())
    return PushedFile(listed=listed, source=path, data=None if clean == raw else clean)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
