"""Push: send what a place lacks, then its listing and card."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steercache.core.errors import BusyError
from steercache.exchange.hub.card import card_of
from steercache.exchange.hub.contents import PushedItem
from steercache.exchange.hub.places import ListingChangedError, Place
from steercache.objects.listing import CARD, MOST_BYTES, NAME, Item, from_json, merged, rank, to_json

MOST_TRIES = 20  # to write a listing that others write too
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push did: `items` are there now; `n_files` of `n_bytes` were sent, `n_kept` were there already."""

    place: str
    items: tuple[Item, ...]
    n_files: int
    n_kept: int
    n_bytes: int


def push(place: Place, items: Sequence[PushedItem], *, progress: Progress) -> Pushed:
    """Send items to a place; killed, the same call goes on with what is not there.

    Raises:
        DamagedError: the place has a listing that is not one. UsageError: it cannot be written to.
    """
    before = place.read(NAME, most=MOST_BYTES)
    if before is not None:
        from_json(before, place=place.name)  # a place with a listing that is none is left as it is
    files = {file.listed.path: file for item in items for file in item.files}
    order = sorted(files.values(), key=lambda file: (rank(file.listed.path), file.listed.path))
    lacking = place.lacks(order)
    total, sent = sum(file.listed.n_bytes for file in lacking), 0
    progress("pushing", 0, total)

    def count(n_bytes: int) -> None:
        nonlocal sent
        sent += n_bytes
        progress("pushing", sent, total)

    place.put(lacking, on_bytes=count)
    _finish(place, before, [item.item for item in items], changed=bool(lacking))
    return Pushed(
        place=place.name,
        items=tuple(item.item for item in items),
        n_files=len(lacking),
        n_kept=len(order) - len(lacking),
        n_bytes=total,
    )


def _finish(place: Place, before: bytes | None, items: Sequence[Item], *, changed: bool) -> None:
    """Add the items to the listing, and to one that another push has written meanwhile. Raises BusyError."""
    for _ in range(MOST_TRIES):
        known = None if before is None else from_json(before, place=place.name)
        listing = merged(known, items)
        documents = {CARD: card_of(listing, source=place.shown).encode(), NAME: to_json(listing)}
        if before == documents[NAME] and not changed:
            return
        try:
            place.finish(documents)
        except ListingChangedError:
            before = place.read(NAME, most=MOST_BYTES)
        else:
            return
    raise BusyError("others write its listing all the time", place=place.name, hint="push again")
