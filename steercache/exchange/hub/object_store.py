"""A bucket or container of an object store (S3, Google Cloud Storage, Azure Blob), through obstore.

No renames, and nothing is asked of the store's listings: each object is put whole, with the SHA-256 of its bytes as metadata,
and our own listing is replaced only where it is still the one that was read (put if absent, put if the tag matches).
Credentials are those of the environment, as the stores' own tools take them; they are in no file, log or error.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from steercache.core.errors import DamagedError, MissingExtraError, NotFoundError, SteercacheError, UsageError
from steercache.exchange.hub.contents import PushedFile
from steercache.exchange.hub.listing import NAME
from steercache.exchange.hub.places import PIECE, ListingChangedError, OnBytes

SCHEMES: Final = ("s3", "gs", "az")
CHUNK_BYTES: Final = 16 * 2**20  # of an upload in parts
MOST_READS: Final = 6  # of one file: a connection that is cut is taken up where it was
_ADDRESS = re.compile(r"(?:s3|gs|az)://[a-z0-9][a-z0-9._-]{1,62}(?:/[\w.=+@ -]+)*/?")
_SECRET = re.compile(r"\?[^\s\"')]*|(?i:(?:signature|credential|key|token|secret|authorization)\S*\s*[:=]\s*)\S+")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_HASH = "sha256"
_RETRIES: Final[Any] = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}


class StorePlace:
    """`s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`."""

    def __init__(self, address: str) -> None:
        if urlsplit(address).username is not None or "?" in address:
            raise UsageError(
                "an address holds no credentials: it is written into logs",
                hint="give them in the environment, as the store's own tools take them",
            )
        if _ADDRESS.fullmatch(address) is None:
            raise UsageError(
                f"{address[:200]!r} is no address", hint="s3://BUCKET/FOLDER, gs://... or az://CONTAINER/FOLDER"
            )
        self.name = self.shown = address.rstrip("/")
        self._listing: tuple[bool, str | None] = (False, None)  # whether it was read, and its tag (None: there is none)
        self._obstore, errors = _obstore()
        self._missing: type[Exception] = errors.NotFoundError
        self._changed: tuple[type[Exception], ...] = (errors.AlreadyExistsError, errors.PreconditionError)
        self._failed: type[Exception] = errors.BaseError
        self._refused: tuple[type[Exception], ...] = (errors.PermissionDeniedError, errors.UnauthenticatedError)
        with self._explained(""):
            from obstore.store import from_url

            self._store: Any = from_url(self.name, retry_config=_RETRIES)

    def read(self, path: str, *, most: int) -> bytes | None:
        """As `Place.read`."""
        try:
            with self._explained(path):
                found = self._obstore.get(self._store, path)
                if path == NAME:
                    self._listing = True, found.meta["e_tag"]
                if found.meta["size"] > most:
                    raise DamagedError(f"larger than {most:,} bytes", place=self._place(path))
                return bytes(found.bytes())
        except NotFoundError:
            if path == NAME:
                self._listing = True, None
            return None

    def pieces(self, path: str, *, first: int) -> Iterator[bytes]:
        """As `Place.pieces`; a connection that is cut is taken up behind what came."""
        at, size = first, None
        for again in range(MOST_READS):
            try:
                with self._explained(path):
                    if size is None:
                        size = int(self._obstore.head(self._store, path)["size"])
                    if at >= size:
                        return
                    found = self._obstore.get(self._store, path, options={"range": {"offset": at}})
                    for piece in found.stream(min_chunk_size=PIECE):
                        at += len(piece)
                        yield bytes(piece)
                    return
            except UsageError:
                if again == MOST_READS - 1:
                    raise

    def lacks(self, files: Sequence[PushedFile]) -> list[PushedFile]:
        """As `Place.lacks`, by size and by the hash that was put beside each object."""
        return [file for file in files if not self._has(file)]

    def put(self, files: Sequence[PushedFile], *, on_bytes: OnBytes) -> None:
        """As `Place.put`."""
        for file in files:
            self._put(file.listed.path, file.source if file.data is None else file.data, file.listed.sha256)
            on_bytes(file.listed.n_bytes)

    def finish(self, documents: dict[str, bytes]) -> None:
        """As `Place.finish`; the listing last, and only in the place of the one that was read."""
        for path, data in documents.items():
            if path != NAME:
                self._put(path, data, None)
        read, tag = self._listing
        mode: Any = "overwrite" if not read else "create" if tag is None else {"e_tag": tag}
        with self._explained(NAME):
            try:
                put = self._obstore.put(self._store, NAME, documents[NAME], mode=mode, use_multipart=False)
            except self._changed as error:
                raise ListingChangedError(self.name) from error
        self._listing = True, put["e_tag"]

    def _put(self, path: str, data: Any, sha256: str | None) -> None:
        attributes = None if sha256 is None else {_HASH: sha256}
        with self._explained(path):
            self._obstore.put(self._store, path, data, attributes=attributes, chunk_size=CHUNK_BYTES)

    def _has(self, file: PushedFile) -> bool:
        try:
            with self._explained(file.listed.path):
                found = self._obstore.get(self._store, file.listed.path, options={"head": True})
        except NotFoundError:
            return False
        return bool(found.meta["size"] == file.listed.n_bytes and found.attributes.get(_HASH) == file.listed.sha256)

    def _place(self, path: str) -> str:
        return f"{self.name}/{path}" if path else self.name

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """What the store or the network says, without anything secret, as an error with a way out."""
        place = self._place(path)
        try:
            yield
        except (SteercacheError, ListingChangedError):
            raise
        except (self._missing, FileNotFoundError) as error:
            if _NO_BUCKET.search(str(error)):
                raise UsageError("no such bucket", place=place, hint="make it, or check its name") from None
            raise NotFoundError("not there", place=place, hint="push again") from None
        except self._refused as error:
            hint = "give credentials that may read and write there, in the environment"
            raise UsageError(f"the store refuses: {_said(error)}", place=place, hint=hint) from None
        except (self._failed, OSError, ValueError) as error:
            hint = "call it again: what was sent or received is kept"
            raise UsageError(f"the store did not answer: {_said(error)}", place=place, hint=hint) from None


def _said(error: Exception) -> str:
    """The first line of a message, short, without the queries of addresses and what looks like a credential."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return _SECRET.sub("...", first)[:300]


def _obstore() -> tuple[Any, Any]:
    try:
        import obstore
        from obstore import exceptions
    except ModuleNotFoundError as error:
        raise MissingExtraError("obstore is not installed", hint="pip install 'steercache[store]'") from error
    return obstore, exceptions
