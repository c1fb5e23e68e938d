"""The listing of a place as the catalogue of what is there: replaced only where it is still the one that was read."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from steercache.core.errors import BusyError
from steercache.objects.interface import NotChangedError, ObjectChangedError, ObjectStore
from steercache.objects.listing import MOST_BYTES, NAME, Item, Listing, from_json, merged, to_json

MOST_TRIES: Final = 20  # to write a listing that others write too


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """A listing as it was read, and its tag. Where there is none yet, the tag is None."""

    listing: Listing
    tag: str | None


def read_catalogue(store: ObjectStore, *, unless: str | None = None) -> Catalogue | None:
    """What a place holds; None where its listing still has the tag `unless`.

    Raises:
        DamagedError: its listing is not one.
    """
    try:
        found = store.get(NAME, most=MOST_BYTES, unless=unless)
    except NotChangedError:
        return None
    if found is None:
        return Catalogue(listing=Listing(items=()), tag=None)
    return Catalogue(listing=from_json(bytes(found.data), place=store.name), tag=found.info.tag)


def add_items(store: ObjectStore, items: Sequence[Item]) -> Catalogue:
    """Add items to a place's listing, also to one that others write meanwhile; one of the same id is replaced.

    Raises:
        BusyError: others write the listing all the time. DamagedError: the listing is not one.
    """
    for attempt in range(MOST_TRIES):
        before = read_catalogue(store)
        assert before is not None  # nothing was excluded
        listing = merged(before.listing, items)
        if before.tag is not None and listing.items == before.listing.items:
            return before
        try:
            return Catalogue(listing=listing, tag=store.swap(NAME, to_json(listing), tag=before.tag))
        except ObjectChangedError:
            time.sleep(min(0.01 * 2**attempt, 1.0))
    raise BusyError("others write its listing all the time", place=store.name, hint="call it again")
