"""Addresses of places that hold a cache: a bucket or container of an object store, or a folder as `file://`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from steercache.core.errors import UsageError

BUCKETS: Final = ("s3", "gs", "az")
SCHEMES: Final = (*BUCKETS, "file")
_BUCKET_ADDRESS = re.compile(r"(s3|gs|az)://([a-z0-9][a-z0-9._-]{1,62})((?:/[\w.=+@ -]+)*)/?")
_HINT = "s3://BUCKET/FOLDER, gs://..., az://CONTAINER/FOLDER, or file:///FOLDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """`scheme://bucket/prefix`; of `file` the bucket is empty and the prefix an absolute path."""

    scheme: str
    bucket: str
    prefix: str

    @property
    def text(self) -> str:
        """The address as it is written, without a slash at its end."""
        if self.scheme == "file":
            return f"file://{quote(self.prefix)}"
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def folder(self) -> Path:
        """The folder that a `file` address names."""
        return Path(self.prefix)

    @property
    def label(self) -> str:
        """The last part of the address, as a plain name for folders.

        >>> parse_address("s3://bucket/some folder").label
        'some-folder'
        """
        last = (self.prefix or self.bucket).rstrip("/").rpartition("/")[2]
        return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.")[:60] or "root"


def is_address(text: str) -> bool:
    """Whether `text` is written as the address of an object store or as `file://`, right or wrong.

    >>> is_address("s3://bucket/x"), is_address("cache"), is_address("hf://datasets/a/b")
    (True, False, False)
    """
    scheme, colon, _ = text.partition("://")
    return bool(colon) and scheme in SCHEMES


def parse_address(text: str) -> StoreAddress:
    """The address that `text` is.

    >>> parse_address("s3://bucket/folder/").text
    's3://bucket/folder'

    Raises:
        UsageError: it is none, or holds credentials.
    """
    parts = _split(text)
    if parts is not None and (parts.username is not None or "?" in text):
        raise UsageError(
            "an address holds no credentials: it is written into logs",
            hint="give them in the environment, as the store's own tools take them",
        )
    if parts is not None and parts.scheme == "file":
        path = unquote(parts.path)
        if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
            raise UsageError(f"{text[:200]!r} is no address", hint="file:///FOLDER, with the whole path")
        return StoreAddress(scheme="file", bucket="", prefix=path.rstrip("/") or "/")
    found = _BUCKET_ADDRESS.fullmatch(text)
    if found is None or ".." in found[3].split("/"):
        raise UsageError(f"{text[:200]!r} is no address", hint=_HINT)
    return StoreAddress(scheme=found[1], bucket=found[2], prefix=found[3].strip("/"))


def _split(text: str):  # type: ignore[no-untyped-def]
    try:
        return urlsplit(text)
    except ValueError:
        return None
