"""What is pushed: the files of named runs, vectors, sweeps, features and SAE folders."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from steercache.cache.clean import clean_json, clean_vector, header_of, refuse_traces
from steercache.cache.documents import RunDocument
from steercache.cache.feature_files import read_encoding_document
from steercache.cache.handle import CacheFolder
from steercache.cache.remote import about_vector
from steercache.cache.source import committed_shards, current_generation
from steercache.cache.sweep_files import MANIFEST, read_sweep_files
from steercache.cache.vectors import list_vectors
from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.ids import SHORT_ID, resolve_name
from steercache.objects.listing import Item, Kind, ListedFile, folder_id, form_of

SAES: Final = "sae/folders"
SAE_FILES: Final = ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "health.json", "card.md")
MOST_HEADER_BYTES: Final = 2**24
MOST_NAME: Final = 200
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
    """The items that `names` mean: runs, vectors, sweeps, or features by name, id or prefix, or the folder of an SAE;
    `vector:counting` says of which kind.

    Raises:
        NotFoundError: nothing has the name. UsageError: several kinds have it, or a run is not complete.
    """
    known = known_items(cache)
    found: dict[tuple[Kind, str], PushedItem] = {}
    for name in names:
        kind, wanted = _kind_of(name, known)
        if kind == "sae" and _is_sae(Path(wanted)):
            item = _sae(cache, Path(wanted))
            found[kind, item.item.id] = item
            continue
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
        "sae": [(f.name, f.name) for f in sorted(cache.paths.sae_folders.glob("*")) if _is_sae(f)],
    }


def _is_sae(folder: Path) -> bool:
    """Whether a folder is one that sae-lens wrote."""
    return all((folder / name).is_file() for name in SAE_FILES[:2])


def _kind_of(name: str, known: Known) -> tuple[Kind, str]:
    for kind in known:
        if name.startswith(f"{kind}:"):
            return kind, name.partition(":")[2]
    exact = [kind for kind, pairs in known.items() if any(name in pair for pair in pairs)]
    fits = exact or [kind for kind, pairs in known.items() if name and any(i.startswith(name) for i, _ in pairs)]
    if len(fits) > 1:
        raise UsageError(f"{name!r} is the name of a {' and of a '.join(fits)}", hint=f"say which: {fits[0]}:{name}")
    if not fits and _is_sae(Path(name)):
        return "sae", name
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
    return _item(cache, "vector", vector_id, vector.name, [cache.paths.vector(vector_id)], about_vector(vector))


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


def _sae(cache: CacheFolder, folder: Path) -> PushedItem:
    """The folder of an SAE, wherever it lies, as the files that it will be in a cache."""
    files = tuple(
        _file(cache, folder / name, f"{SAES}/{'0' * 64}/{name}") for name in SAE_FILES if (folder / name).is_file()
    )
    item_id = folder_id(file.listed for file in files)
    listed = tuple(replace(f.listed, path=f"{SAES}/{item_id}/{f.source.name}") for f in files)
    item = Item(kind="sae", id=item_id, name=_name_of(folder), about=_about_sae(folder), files=listed)
    moved = [replace(file, listed=one) for file, one in zip(files, listed, strict=True)]
    return PushedItem(item=item, files=tuple(moved))


def _name_of(folder: Path) -> str:
    name = folder.resolve().name
    return name[:SHORT_ID] if re.fullmatch("[0-9a-f]{64}", name) else name


def _about_sae(folder: Path) -> About:
    """What the configuration says, where it says it. Raises DamagedError for a file that is none."""
    try:
        said = json.loads((folder / SAE_FILES[0]).read_bytes())
        metadata = said.get("metadata") or {}
        known = {"architecture": said.get("architecture"), "features": said.get("d_sae"), "width": said.get("d_in")}
        known |= {"model": metadata.get("model_name"), "hook": metadata.get("hook_name")}
    except (ValueError, AttributeError, RecursionError) as error:
        raise DamagedError("not the configuration of an SAE", place=str(folder / SAE_FILES[0])) from error
    return {key: value for key, value in known.items() if isinstance(value, str | int)}


_ITEMS: Mapping[Kind, Callable[[CacheFolder, str], PushedItem]] = {
    "run": _run,
    "vector": _vector,
    "sweep": _sweep,
    "features": _features,
    "sae": lambda cache, item_id: _sae(cache, cache.paths.sae_folders / item_id),
}


def _item(cache: CacheFolder, kind: Kind, item_id: str, name: str, paths: Sequence[Path], about: About) -> PushedItem:
    form = re.compile(form_of(kind, item_id))
    files = []
    for path in sorted({*paths}):
        relative = path.relative_to(cache.root).as_posix()
        if form.fullmatch(relative) and path.is_file():  # locks and what a killed writer left are no part of it
            files.append(_file(cache, path, relative))
    listed = tuple(file.listed for file in files)
    name = re.sub(r"[\x00-\x1f]", " ", name)[:MOST_NAME].strip() or item_id[:SHORT_ID]  # as a listing may have it
    return PushedItem(item=Item(kind=kind, id=item_id, name=name, about=about, files=listed), files=tuple(files))


def _file(cache: CacheFolder, path: Path, relative: str) -> PushedFile:
    if not relative.endswith((".json", ".safetensors")):
        listed = ListedFile(path=relative, n_bytes=path.stat().st_size, sha256=sha256_of(path))
        return PushedFile(listed=listed, source=path)
    if relative.startswith(f"{SAES}/") and relative.endswith(".safetensors"):
        refuse_traces(_header_at(path), cache.root, path.name)
        listed = ListedFile(path=relative, n_bytes=path.stat().st_size, sha256=sha256_of(path))
        return PushedFile(listed=listed, source=path)
    raw = path.read_bytes()
    is_vector = relative.endswith(".safetensors")
    try:
        clean = clean_vector(raw) if is_vector else clean_json(raw, path.name)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            "not the document that it should be", place=str(path), hint="restore it from a copy, or make it again"
        ) from error
    refuse_traces(header_of(clean) if is_vector else clean, cache.root, relative)
    listed = ListedFile(path=relative, n_bytes=len(clean), sha256=hashlib.sha256(clean).hexdigest())
    return PushedFile(listed=listed, source=path, data=None if clean == raw else clean)


def _header_at(path: Path) -> bytes:
    """The header of a safetensors file of any size; empty where it has none."""
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        return file.read(n_bytes) if n_bytes <= MOST_HEADER_BYTES else b""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
