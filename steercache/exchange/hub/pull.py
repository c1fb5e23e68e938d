"""Pull: take items of a place into a cache, every file checked before it gets its name."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from steercache.cache.documents import read_run_document
from steercache.cache.handle import CacheFolder
from steercache.cache.lock import hold_lock
from steercache.cache.rebuild import catch_up_or_rebuild
from steercache.cache.status import free_bytes
from steercache.cache.vector_files import read_vector
from steercache.core.errors import BudgetError, DamagedError, NotFoundError, SteercacheError
from steercache.exchange.hub.contents import sha256_of
from steercache.exchange.hub.places import Place
from steercache.objects.listing import MOST_BYTES, NAME, Item, Kind, ListedFile, from_json, rank
from steercache.store.durable import disk_errors, fsync_folder, make_folder

Progress = Callable[[str, int, int | None], None]
SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull did: `items` are in the cache now, `already` were there before; `n_files` of `n_bytes` were received."""

    place: str
    items: tuple[Item, ...]
    already: tuple[Item, ...]
    n_files: int
    n_bytes: int


def listing_of(place: Place) -> tuple[Item, ...]:
    """What a place holds. Raises NotFoundError when it is no place that was pushed to, DamagedError for a wrong listing."""
    data = place.read(NAME, most=MOST_BYTES)
    if data is None:
        raise NotFoundError(f"there is no {NAME}: nothing was pushed there", place=place.name, hint="check the address")
    return from_json(data, place=place.name).items


def chosen(items: Sequence[Item], names: Sequence[str], *, place: str) -> list[Item]:
    """The items with these names, ids or prefixes of ids; all where none are given. Raises NotFoundError."""
    if not names:
        return list(items)
    found: dict[tuple[str, str], Item] = {}
    for name in names:
        plain = name.partition(":")[2] if name.partition(":")[0] in get_args(Kind) else name
        fits = [i for i in items if plain in (i.name, i.id) and name in (plain, f"{i.kind}:{plain}")]
        fits = fits or [i for i in items if plain and i.id.startswith(plain)]
        if not fits:
            there = ", ".join(sorted({i.name for i in items})[:12])
            raise NotFoundError(f"nothing is named {name[:80]!r}", place=place, hint=f"there are: {there}")
        found |= {(i.kind, i.id): i for i in fits}
    return list(found.values())


def pull(place: Place, items: Sequence[Item], cache: CacheFolder, *, budget_bytes: int, progress: Progress) -> Pulled:
    """Take items into the cache; killed, the same call goes on. What the cache has under the same id stays as it is.

    What the cache cannot read after all is taken out again: one such item would be in the way of every query.

    Raises:
        BudgetError: larger than the budget or the disk. DamagedError: a file is not what the listing says, or what came cannot
            be read; nothing of it stays.
        BusyError: another process works on a run of the same id.
    """
    already = [item for item in items if _is_here(cache, item)]
    wanted = [item for item in items if item not in already]
    lacking = {f.path: f for item in wanted for f in item.files if not _has(cache.root / f.path, f)}
    total = sum(file.n_bytes for file in lacking.values())
    check_size(cache, total, budget_bytes, place.name)
    received, sound = 0, _can_be_read(cache) is None

    def count(n_bytes: int) -> None:
        nonlocal received
        received += n_bytes
        progress("pulling", received, total)

    for item in wanted:
        with ExitStack() as stack:
            if item.kind == "run":
                stack.enter_context(hold_lock(cache.run_paths(item.id).lock, what=f"the run {item.name!r}"))
            for file in sorted(item.files, key=lambda f: (rank(f.path), f.path)):
                if file.path in lacking:
                    _receive(place, file, cache.root / file.path, item, count)
    problem = _can_be_read(cache)
    if problem is not None and sound:
        for path in (file.path for item in wanted for file in item.files):
            if path in lacking or not path.startswith("annotations/"):
                (cache.root / path).unlink(missing_ok=True)
        for item in wanted:
            for folder in {(cache.root / file.path).parent for file in item.files}:
                _remove_empty(folder, up_to=cache.root)
        _can_be_read(cache)
        raise DamagedError(
            f"what came cannot be read, and is not kept: {problem.message}",
            place=place.name,
            hint="take nothing from this place; or push again, with the newest steercache",
        )
    if problem is not None:
        raise problem
    return Pulled(place=place.name, items=tuple(items), already=tuple(already), n_files=len(lacking), n_bytes=total)


def _can_be_read(cache: CacheFolder) -> SteercacheError | None:
    """Bring the index up to date; what is wrong with the files, None for nothing."""
    try:
        catch_up_or_rebuild(cache)
    except NotFoundError:
        return None  # an empty cache
    except SteercacheError as error:
        return error
    return None


def _remove_empty(folder: Path, *, up_to: Path) -> None:
    """Remove a folder and those above it, as far as they are empty."""
    while folder != up_to and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _is_here(cache: CacheFolder, item: Item) -> bool:
    """Whether the cache has an item of this id that did not come from this place: its documents are its own."""
    heads = {"run": f"runs/{item.id}/run.json", "vector": f"vectors/{item.id}.safetensors"}
    heads |= {"sweep": f"sweeps/{item.id}/manifest.json", "features": f"sae/{item.id}/encoding.json"}
    heads |= {"sae": f"sae/folders/{item.id}/cfg.json"}
    listed = {file.path: file for file in item.files}
    path = cache.root / heads[item.kind]
    return path.exists() and (heads[item.kind] not in listed or not _has(path, listed[heads[item.kind]]))


def _has(path: Path, file: ListedFile) -> bool:
    try:
        return path.stat().st_size == file.n_bytes and sha256_of(path) == file.sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_size(cache: CacheFolder, total: int, budget_bytes: int, place: str) -> None:
    """Raise BudgetError where so many bytes are more than the budget, or than the disk has room for."""
    if total > budget_bytes:
        raise BudgetError(
            f"{total:,} bytes would be received, the budget is {budget_bytes:,}",
            place=place,
            hint=f"name fewer items, or a budget of {total / 1e9:.3g} GB (`budget_gb`)",
        )
    free = free_bytes(cache.root)
    if total + SPARE_BYTES > free:
        raise BudgetError(
            f"{total:,} bytes would be received, the disk has {free:,} free",
            place=str(cache.root),
            hint="name fewer items, or a cache on another disk",
        )


def _receive(place: Place, file: ListedFile, target: Path, item: Item, on_bytes: Callable[[int], None]) -> None:
    """One file under its name, after its size, its hash and, for documents, its content were found right."""
    where = f"{place.name}: {file.path}"
    if target.exists() and file.path.startswith("annotations/"):
        return  # labels may have been mended here; those that are here stay
    make_folder(target.parent)
    part = target.with_name(f".{target.name}.{file.sha256[:16]}.part")
    size = part.stat().st_size if part.exists() else 0
    if size > file.n_bytes:
        part.unlink()
        size = 0
    try:
        with disk_errors(part), part.open("ab") as out:
            on_bytes(size)
            for piece in place.pieces(file.path, first=size) if size < file.n_bytes or not size else ():
                size += len(piece)
                if size > file.n_bytes:
                    raise DamagedError(f"larger than the {file.n_bytes:,} bytes that are listed", place=where)
                out.write(piece)
                on_bytes(len(piece))
            out.flush()
            os.fsync(out.fileno())
        if size < file.n_bytes:  # what came stays, so that the next call goes on behind it
            raise DamagedError(f"{size:,} of {file.n_bytes:,} bytes came", place=where, hint="pull again")
    except DamagedError:
        if size > file.n_bytes:
            part.unlink(missing_ok=True)
        raise
    if sha256_of(part) != file.sha256:
        part.unlink()
        raise DamagedError("its SHA-256 is not the one that is listed", place=where, hint="pull again; else push again")
    _check_document(part, file, item)
    part.replace(target)
    fsync_folder(target.parent)


def _check_document(part: Path, file: ListedFile, item: Item) -> None:
    """Refuse documents that are no documents of their item, before they get their names."""
    try:
        if file.path.endswith("/run.json") and read_run_document(part).run_id != item.id:
            raise DamagedError("the document of another run", place=file.path)
        if item.kind == "vector" and read_vector(part).vector.vector_id != item.id:
            raise DamagedError("another vector", place=file.path)
        if file.path == f"sweeps/{item.id}/manifest.json" and _object(part, file.path).get("sweep_id") != item.id:
            raise DamagedError("the document of another sweep", place=file.path)
        if item.kind == "features" and file.path == f"sae/{item.id}/encoding.json":
            said = _object(part, file.path)
            sae = said.get("sae")
            if f"{sae.get('sae_id') if isinstance(sae, dict) else None}/{said.get('run_id')}" != item.id:
                raise DamagedError("features of another SAE or run", place=file.path)
    except DamagedError:
        part.unlink(missing_ok=True)
        raise


def _object(path: Path, place: str) -> dict[str, Any]:
    """A JSON object. Raises DamagedError."""
    try:
        said = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError("not a JSON document", place=place) from error
    if not isinstance(said, dict):
        raise DamagedError("not a JSON object", place=place)
    return said
