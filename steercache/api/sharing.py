"""Push and pull: what `Cache.push` and `Cache.pull` do."""

import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from steercache.api.progress import ProgressLike, reporting
from steercache.cache.handle import CacheFolder, open_cache
from steercache.core.errors import UsageError
from steercache.exchange.activations.part import copy_part
from steercache.exchange.hub.contents import gather
from steercache.exchange.hub.object_store import StorePlace
from steercache.exchange.hub.places import FolderPlace, Place, refuse_same
from steercache.exchange.hub.pull import Pulled, chosen, listing_of
from steercache.exchange.hub.pull import pull as pull_items
from steercache.exchange.hub.push import Pushed
from steercache.exchange.hub.push import push as push_items
from steercache.exchange.hub.remote import HubPlace
from steercache.objects.addresses import is_address


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
    budget_gb: float,
    progress: ProgressLike,
) -> Pulled:
    """Take items of a place into the cache; see `Cache.pull`."""
    place = place_of(source, cache.root)
    items = chosen(listing_of(place), names, place=place.name)
    with reporting(progress) as show:
        return pull_items(place, items, cache, budget_bytes=round(budget_gb * 1e9), progress=show)
