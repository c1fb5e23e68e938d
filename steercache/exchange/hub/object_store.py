"""A bucket or container of an object store as a place to push to and to pull from."""

from collections.abc import Iterator, Sequence

from steercache.exchange.hub.contents import PushedFile
from steercache.exchange.hub.places import ListingChangedError, OnBytes
from steercache.objects.interface import ObjectChangedError, Sums
from steercache.objects.listing import NAME
from steercache.objects.opening import open_store


class StorePlace:
    """`s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, or `file:///folder`."""

    def __init__(self, address: str) -> None:
        self._store = open_store(address)
        self.name = self.shown = self._store.name
        self._listing: tuple[bool, str | None] = (False, None)  # whether it was read, and its tag (None: there is none)

    def read(self, path: str, *, most: int) -> bytes | None:
        """As `Place.read`."""
        found = self._store.get(path, most=most)
        if path == NAME:
            self._listing = True, None if found is None else found.info.tag
        return None if found is None else bytes(found.data)

    def pieces(self, path: str, *, first: int) -> Iterator[bytes]:
        """As `Place.pieces`; a connection that is cut is taken up behind what came."""
        return self._store.pieces(path, first=first)

    def lacks(self, files: Sequence[PushedFile]) -> list[PushedFile]:
        """As `Place.lacks`, by size and by the hash that was put beside each object."""
        return [file for file in files if not self._has(file)]

    def put(self, files: Sequence[PushedFile], *, on_bytes: OnBytes) -> None:
        """As `Place.put`."""
        for file in files:
            data = file.source if file.data is None else file.data
            self._store.put(file.listed.path, data, sums=Sums(sha256=file.listed.sha256))
            on_bytes(file.listed.n_bytes)

    def finish(self, documents: dict[str, bytes]) -> None:
        """As `Place.finish`; the listing last, and only in the place of the one that was read."""
        for path, data in documents.items():
            if path != NAME:
                self._store.put(path, data)
        read, tag = self._listing
        try:
            now = self._store.swap(NAME, documents[NAME], tag=tag) if read else self._store.put(NAME, documents[NAME])
        except ObjectChangedError as error:
            raise ListingChangedError(self.name) from error
        self._listing = True, now

    def _has(self, file: PushedFile) -> bool:
        found = self._store.head(file.listed.path)
        return found is not None and (found.n_bytes, found.sums.sha256) == (file.listed.n_bytes, file.listed.sha256)
