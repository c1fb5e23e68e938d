"""`steercache.json`: what a pushed place holds, with size and SHA-256 of every file.

What another place says is not trusted: every path must have the form of a file of a cache, below the item that it belongs to.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from steercache.core.errors import DamagedError
from steercache.core.ids import canonical_json, digest

NAME: Final = "steercache.json"
CARD: Final = "README.md"
FORMAT: Final = 2  # 1 has no items by records; it is written as long as there are none
MOST_BYTES: Final = 64 * 2**20  # of the listing itself
Kind = Literal["run", "vector", "sweep", "features", "sae"]

_HEX = r"[0-9a-f]{64}"
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_BELOW: Final[Mapping[Kind, str]] = {
    "run": r"runs/{id}/(?:run\.json|CURRENT|g[0-9]{{4}}/(?:{plain}/)?{plain}|(?:rows|samples)/[0-9]{{5}}\.parquet"
    r"|shards/g[0-9]{{4}}/[0-9]{{5}}\.json)|annotations/{plain}/{hex}\.parquet",
    "vector": r"vectors/{id}\.safetensors",
    "sweep": r"sweeps/{id}/(?:{plain}/)?{plain}\.(?:json|parquet)",
    "sae": r"sae/folders/{id}/(?:cfg\.json|sae_weights\.safetensors|sparsity\.safetensors|health\.json|card\.md)",
    "features": r"sae/{id}/(?:encoding\.json|health\.json|acts/[0-9]{{5}}\.parquet|shards/[0-9]{{5}}\.json)",
}
_ID: Final[Mapping[Kind, str]] = {"run": _HEX, "vector": _HEX, "sweep": _HEX, "features": f"{_HEX}/{_HEX}", "sae": _HEX}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """A file by its path below a cache's root."""

    path: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A run, a vector, a sweep, the features of one run by one SAE (whose id is `<sae>/<run>`), or the folder of an SAE (whose
    id is `folder_id` of its files). `about` is for people.

    A run `by_records` lists no files: it is built at this place, and its files are found by the names that its plan gives them,
    with sizes and checksums in the records of its shards.
    """

    kind: Kind
    id: str
    name: str
    about: dict[str, str | int]
    files: tuple[ListedFile, ...]
    by_records: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.n_bytes for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Everything that a place holds."""

    items: tuple[Item, ...]
    format: int = 1


_LISTING = TypeAdapter(Listing)


def to_json(listing: Listing) -> bytes:
    """The listing as its file holds it."""
    said = asdict(listing)
    for item in said["items"]:
        if not item["by_records"]:
            del item["by_records"]  # as the first format has it
    said["format"] = FORMAT if any(item.by_records for item in listing.items) else 1
    return json.dumps(json.loads(canonical_json(said)), indent=1).encode() + b"\n"


def from_json(data: bytes, *, place: str) -> Listing:
    """A listing that somebody wrote.

    Raises:
        DamagedError: it is none, of a newer format, or names a file that is not of a cache.
    """
    try:
        listing = _LISTING.validate_json(data)
    except (ValidationError, RecursionError) as error:
        raise DamagedError("not a listing of steercache", place=place, hint="push again from the original") from error
    if listing.format > FORMAT:
        raise DamagedError(
            f"format {listing.format} is newer than this steercache reads ({FORMAT})",
            place=place,
            hint="pip install --upgrade steercache",
        )
    wrong = [what for item in listing.items for what in _wrong(item)]
    if wrong:
        raise DamagedError(
            f"{len(wrong)} entries are no files of a cache, the first {wrong[0]}",
            place=place,
            hint="take nothing from this place: no push writes such entries",
        )
    return listing


def _wrong(item: Item) -> list[str]:
    if not re.fullmatch(_ID[item.kind], item.id) or not re.fullmatch(r"[^\x00-\x1f]{1,200}", item.name):
        return [repr(f"{item.kind} {item.id}"[:200])]
    if item.by_records and (item.kind != "run" or item.files):
        return [repr(f"{item.kind} {item.id}")]
    if item.kind == "sae" and folder_id(item.files) != item.id:
        return [repr(f"{item.kind} {item.id}")]
    form = re.compile(form_of(item.kind, item.id))
    seen: set[str] = set()
    found = []
    for file in item.files:
        fits = form.fullmatch(file.path) and re.fullmatch(_HEX, file.sha256) and file.n_bytes >= 0
        if not fits or file.path in seen:
            found.append(repr(file.path[:200]))
        seen.add(file.path)
    return found


def folder_id(files: Iterable[ListedFile]) -> str:
    """The id of an SAE's folder: a digest of the names and contents of its files."""
    return digest(sorted([file.path.rpartition("/")[2], file.sha256] for file in files))


def form_of(kind: Kind, item_id: str) -> str:
    """The regular expression of the paths that an item may have."""
    return _BELOW[kind].format(id=re.escape(item_id), plain=_PLAIN, hex=_HEX)


def merged(before: Listing | None, items: Sequence[Item]) -> Listing:
    """A listing with some items added; one that was there under the same id is replaced."""
    known = {} if before is None else {(item.kind, item.id): item for item in before.items}
    known |= {(item.kind, item.id): item for item in items}
    return Listing(items=tuple(known[key] for key in sorted(known)))


def files_of(items: Iterable[Item]) -> dict[str, ListedFile]:
    """Every file once, by path."""
    return {file.path: file for item in items for file in item.files}


def rank(path: str) -> int:
    """In which order files of an item get their names: what a reader needs first, and what commits rows last."""
    name = path.rpartition("/")[2]
    if name in ("zarr.json", "CURRENT"):
        return ("zarr.json", "CURRENT").index(name)
    if name in ("run.json", "encoding.json"):
        return 2
    return 4 if "/shards/" in path or name in ("manifest.json", "cfg.json") else 3


def about_text(value: Any) -> str:
    """A value of `about` in a cell of a table: no markup, one line."""
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return re.sub(r"[\x00-\x1f|<>`\[\]\\]", " ", text)[:200]
