"""A bucket or container of an object store (S3, Google Cloud Storage, Azure Blob), through obstore: the one door to it.

No renames, and nothing is asked of the store's listings: each object is put whole, with checksums of its bytes as metadata, and
replaced, where that matters, only if it is still the one that was read (put if absent, put if the tag matches). Credentials are
those of the environment, as the stores' own tools take them; they are in no file, log or error.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import (
    DamagedError,
    MissingExtraError,
    NotFoundError,
    SteercacheError,
    UnreachableError,
    UsageError,
)
from steercache.objects.addresses import StoreAddress
from steercache.objects.interface import NO_SUMS, PIECE, Fetched, NotChangedError, ObjectChangedError, ObjectInfo, Sums

CHUNK_BYTES: Final = 16 * 2**20  # of an upload in parts
MOST_READS: Final = 6  # of one answer: a connection that is cut is taken up where it was
_SECRET = re.compile(r"\?[^\s\"')]*|(?i:(?:signature|credential|key|token|secret|authorization)\S*\s*[:=]\s*)\S+")
_ASKED_THE_MACHINE = re.compile(
    r"/latest/(?:api/token|meta-data)|/metadata/identity|[Cc]ompute[Mm]etadata|metadata\.google"
)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_SHA256, _CRC32C = "sha256", "crc32c"
_VERSION: Final = "#"  # between an e-tag, which is quoted, and a version
_RETRIES: Final[Any] = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}
_OUR_OWN = (SteercacheError, ObjectChangedError, NotChangedError)


class CloudStore:
    """`s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; safe to use from several threads."""

    def __init__(self, address: StoreAddress, *, made: Any = None) -> None:
        """`made` is a store of obstore's that is there already."""
        self.name = address.text
        self._obstore, errors = _obstore()
        self._missing: type[Exception] = errors.NotFoundError
        self._changed: tuple[type[Exception], ...] = (errors.AlreadyExistsError, errors.PreconditionError)
        self._same: type[Exception] = errors.NotModifiedError
        self._failed: type[Exception] = errors.BaseError
        self._refused: tuple[type[Exception], ...] = (errors.PermissionDeniedError, errors.UnauthenticatedError)
        self._store: Any = made
        if made is None:
            with self._explained(""):
                from obstore.store import from_url

                self._store = from_url(self.name, retry_config=_RETRIES)

    def head(self, path: str) -> ObjectInfo | None:
        """As `ObjectStore.head`."""
        try:
            with self._explained(path):
                return _info(self._obstore.get(self._store, path, options={"head": True}))
        except NotFoundError:
            return None

    def get(self, path: str, *, most: int, unless: str | None = None) -> Fetched | None:
        """As `ObjectStore.get`."""
        options = {} if unless is None else {"if_none_match": _update_of(unless)["e_tag"]}
        try:
            return self._read(path, options, most)
        except NotFoundError:
            return None

    def get_range(self, path: str, first: int, n_bytes: int, *, tag: str | None = None) -> Fetched:
        """As `ObjectStore.get_range`."""
        options: dict[str, Any] = {"range": (first, first + n_bytes)}
        if tag is not None:
            options["if_match"] = _update_of(tag)["e_tag"]
        found = self._read(path, options, None)
        if len(found.data) != n_bytes:
            raise ObjectChangedError(path)
        return found

    def pieces(self, path: str, *, first: int = 0) -> Iterator[bytes]:
        """As `ObjectStore.pieces`."""
        at, tag = first, None
        for again in range(MOST_READS):
            try:
                with self._explained(path):
                    if tag is None:
                        known = self.head(path)
                        if known is None:
                            raise self._absent(path)
                        tag, size = known.tag, known.n_bytes
                    if at >= size:
                        return
                    options = {"range": {"offset": at}, "if_match": _update_of(tag)["e_tag"]}
                    for piece in self._obstore.get(self._store, path, options=options).stream(min_chunk_size=PIECE):
                        at += len(piece)
                        yield bytes(piece)
                    return
            except UsageError:
                if again == MOST_READS - 1:
                    raise
            except ObjectChangedError:
                raise DamagedError(
                    "it was replaced while it was read", place=self._place(path), hint="read it again"
                ) from None

    def put_new(self, path: str, data: bytes, *, sums: Sums = NO_SUMS) -> str | None:
        """As `ObjectStore.put_new`."""
        try:
            return self._put(path, data, sums, mode="create")
        except ObjectChangedError:
            return self._ours(path, data)

    def swap(self, path: str, data: bytes, *, tag: str | None) -> str:
        """As `ObjectStore.swap`."""
        try:
            return self._put(path, data, NO_SUMS, mode="create" if tag is None else _update_of(tag))
        except ObjectChangedError:
            ours = self._ours(path, data)
            if ours is None:
                raise
            return ours

    def put(self, path: str, data: bytes | Path, *, sums: Sums = NO_SUMS) -> str:
        """As `ObjectStore.put`."""
        return self._put(path, data, sums, mode="overwrite")

    def delete(self, path: str) -> None:
        """As `ObjectStore.delete`."""
        try:
            with self._explained(path):
                self._obstore.delete(self._store, path)
        except NotFoundError:
            pass

    def _read(self, path: str, options: Mapping[str, Any], most: int | None) -> Fetched:
        for again in range(MOST_READS):  # obstore repeats requests, not the reading of an answer that breaks off
            with self._explained(path):
                found = self._obstore.get(self._store, path, options=options)
                info = _info(found)
                if most is not None and info.n_bytes > most:
                    raise DamagedError(f"larger than {most:,} bytes", place=self._place(path))
                try:
                    return Fetched(data=found.bytes(), info=info)
                except (self._failed, OSError):
                    if again == MOST_READS - 1:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def _put(self, path: str, data: bytes | Path, sums: Sums, *, mode: Any) -> str:
        attributes = {} if sums.sha256 is None else {_SHA256: sums.sha256}
        if sums.crc32c is not None:
            attributes[_CRC32C] = f"{sums.crc32c:08x}"
        parts: dict[str, Any] = {"chunk_size": CHUNK_BYTES} if mode == "overwrite" else {"use_multipart": False}
        with self._explained(path):
            try:
                put = self._obstore.put(self._store, path, data, attributes=attributes or None, mode=mode, **parts)
            except self._changed as error:
                raise ObjectChangedError(path) from error
        return _tag_of(put)

    def _ours(self, path: str, data: bytes) -> str | None:
        """The tag of the object that is there if its bytes are `data`."""
        found = self.head(path)
        if found is None or found.n_bytes != len(data):
            return None
        try:
            whole = self._read(path, {}, None)  # of any size: others may have replaced it since
        except NotFoundError:
            return None
        return whole.info.tag if bytes(whole.data) == data else None

    def _place(self, path: str) -> str:
        return f"{self.name}/{path}" if path else self.name

    def _absent(self, path: str) -> NotFoundError:
        return NotFoundError("not there", place=self._place(path), hint="push again")

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """What the store or the network says, without anything secret, as an error with a way out."""
        place = self._place(path)
        try:
            yield
        except _OUR_OWN:
            raise
        except (self._missing, FileNotFoundError) as error:
            if _NO_BUCKET.search(str(error)):
                raise UsageError("no such bucket", place=place, hint="make it, or check its name") from None
            raise self._absent(path) from None
        except self._same:
            raise NotChangedError(path) from None
        except self._changed:
            raise ObjectChangedError(path) from None
        except self._refused as error:
            hint = "give credentials that may read and write there, in the environment"
            raise UsageError(f"the store refuses: {_said(error)}", place=place, hint=hint) from None
        except (self._failed, OSError, ValueError) as error:
            if _ASKED_THE_MACHINE.search(str(error)):
                hint = (
                    "give them in the environment, as the store's own tools take them (AWS_ACCESS_KEY_ID and its like)"
                )
                raise UsageError("no credentials were found", place=place, hint=hint) from None
            hint = "call it again: what was sent or received is kept"
            raise UnreachableError(f"the store did not answer: {_said(error)}", place=place, hint=hint) from None


def _info(found: Any) -> ObjectInfo:
    meta, beside = found.meta, found.attributes
    crc32c = beside.get(_CRC32C)
    sums = Sums(sha256=beside.get(_SHA256), crc32c=None if crc32c is None else int(crc32c, 16))
    return ObjectInfo(n_bytes=int(meta["size"]), tag=_tag_of(meta), sums=sums)


def _tag_of(meta: Mapping[str, Any]) -> str:
    """An object's tag, and its version where the store has versions: Google's compares those."""
    version = meta.get("version")
    return str(meta["e_tag"]) if version is None else f"{meta['e_tag']}{_VERSION}{version}"


def _update_of(tag: str) -> dict[str, Any]:
    e_tag, _, version = tag.partition(_VERSION)
    return {"e_tag": e_tag, **({"version": version} if version else {})}


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
