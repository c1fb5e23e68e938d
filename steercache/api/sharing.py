"""Push and pull: what `Cache.push` and `Cache.pull` do."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from steercache.api.progress import ProgressLike, reporting
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.rebuild import catch_up_or_rebuild
from steercache.cache.remote import forget_remote, set_read_cache
from steercache.core.errors import UsageError
from steercache.exchange.activations.part import copy_part
from steercache.exchange.hub.contents import gather
from steercache.exchange.hub.object_store import StorePlace
from steercache.exchange.hub.places import FolderPlace, Place, refuse_same
from steercache.exchange.hub.pull import Pulled, check_size, chosen, listing_of
from steercache.exchange.hub.pull import pull as pull_items
from steercache.exchange.hub.pull_records import is_own, item_of, n_bytes_of, n_bytes_of_layers, pull_run
from steercache.exchange.hub.push import Pushed
from steercache.exchange.hub.push import push as push_items
from steercache.exchange.hub.remote import HubPlace
from steercache.objects.addresses import is_address, parse_address
from steercache.objects.listing import Item
from steercache.objects.mirrors import local_folder

Show = Callable[[str, int, int | None], None]
MOST_KEPT_BYTES = 2**30  # of blocks, while layers are pulled


def place_of(address: str | PathLike[str], root: Path, *, private: bool = True) -> Place:
    """A folder (also as `file://`), a dataset repository `hf://datasets/user/name`, or a bucket of an object store (`s3://`,
    `gs://`, `az://`).

    Raises UsageError for other addresses.
    """
    text = str(address)
    if is_address(text):
        return StorePlace(text)
    if text.startswith("hf://"):
        return HubPlace(text, private=private)
    if "://" in text:
        raise UsageError(
            f"{text[:200]!r} is no address",
            hint="a folder, hf://datasets/USER/NAME, or s3://BUCKET/FOLDER (gs://, az://)",
        )
    refuse_same(Path(address), root)
    return FolderPlace(Path(address))


def push(
    cache: CacheFolder,
    names: Sequence[str],
    target: str | PathLike[str],
    *,
    layers: Sequence[int] | None,
    private: bool,
    progress: ProgressLike,
) -> Pushed:
    """Send items of the cache to a place; see `Cache.push`."""
    place = place_of(target, cache.root, private=private)
    with reporting(progress) as show:
        if layers is None:
            return push_items(place, gather(cache, names), progress=show)
        with tempfile.TemporaryDirectory(prefix=".push-", dir=cache.root) as folder:
            part = open_cache(Path(folder) / "part", create=True)
            ids = [
                copy_part(cache.source(cache.resolve_run(n)), cache, part, layers=layers, rows=None).run_id
                for n in names
            ]
            return push_items(place, gather(part, ids), progress=show)


def pull(
    cache: CacheFolder,
    source: str | PathLike[str],
    names: Sequence[str],
    *,
    layers: Sequence[int] | None,
    budget_gb: float,
    progress: ProgressLike,
) -> Pulled:
    """Take items of a place into the cache; see `Cache.pull`."""
    place = place_of(source, cache.root)
    items = chosen(listing_of(place), names, place=place.name)
    budget_bytes = round(budget_gb * 1e9)
    if layers is not None and (others := [item.name for item in items if item.kind != "run"]) and names:
        raise UsageError(f"only runs have layers: {', '.join(others)}", hint="name runs, or leave the layers out")
    runs = [item for item in items if item.kind == "run" and (layers is not None or item.by_records)]
    with reporting(progress) as show:
        if layers is not None:
            return _pull_runs(cache, source, place.name, runs, layers, budget_bytes, show)
        whole = [item for item in items if item not in runs]
        done = pull_items(place, whole, cache, budget_bytes=budget_bytes, progress=show)
        if not runs:
            return done
        more = _pull_runs(cache, source, place.name, runs, None, budget_bytes - done.n_bytes, show)
        return Pulled(
            place=place.name,
            items=(*done.items, *more.items),
            already=(*done.already, *more.already),
            n_files=done.n_files + more.n_files,
            n_bytes=done.n_bytes + more.n_bytes,
        )


def _pull_runs(
    cache: CacheFolder,
    source: str | PathLike[str],
    place: str,
    runs: Sequence[Item],
    layers: Sequence[int] | None,
    budget_bytes: int,
    show: Show,
) -> Pulled:
    """Runs of a cache that is elsewhere, found by their records, or some layers of runs: of these by range requests."""
    if str(source).startswith("hf://"):
        raise UsageError("layers of a run cannot be read from the hub", place=place, hint="pull the whole run")
    with mirrored(source, cache.root) as there:
        found = [(item, there.run_document(item.id)) for item in runs]
        own = {item.id for item, _ in found if layers is None and is_own(cache, there, item.id)}
        wanted = [(item, document) for item, document in found if item.id not in own]
        sizes = [n_bytes_of(there, d.run_id) if layers is None else n_bytes_of_layers(d, layers) for _, d in wanted]
        check_size(cache, sum(sizes), budget_bytes, place)
        received, n_files = 0, 0

        def count(n: int) -> None:
            nonlocal received
            received += n
            show("pulling", received, sum(sizes))

        items = [item for item in runs if item.id in own]
        for (item, document), n_bytes in zip(wanted, sizes, strict=True):
            if layers is None:
                n_files += pull_run(there, item.id, cache, on_bytes=count)
                items.append(item)
                continue
            part = copy_part(there.source(document.run_id), there, cache, layers=layers, rows=None)
            n_files += len(part.shards)
            count(n_bytes)
            items.append(item_of(part))
        catch_up_or_rebuild(cache)
    already = tuple(item for item in items if item.id in own)
    return Pulled(place=place, items=tuple(items), already=already, n_files=n_files, n_bytes=sum(sizes))


@contextmanager
def mirrored(source: str | PathLike[str], root: Path) -> Iterator[CacheFolder]:
    """The cache at a folder or an address, for the length of the block; an address is mirrored beside what is in `root`."""
    if not is_address(str(source)):
        yield open_cache(Path(source))
        return
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=root) as folder:
        mirror = local_folder(parse_address(str(source)), Path(folder) / "mirror")
        set_read_cache(mirror, MOST_KEPT_BYTES)
        try:
            yield open_cache(mirror)
        finally:
            forget_remote(mirror)
