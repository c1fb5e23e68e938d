"""A dataset repository of the Hugging Face hub, through huggingface_hub's own client."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from steercache.core.errors import DamagedError, MissingExtraError, NotFoundError, SteercacheError, UsageError
from steercache.exchange.hub.contents import PushedFile
from steercache.exchange.hub.places import PIECE, OnBytes, git_oid

SCHEME: Final = "hf://datasets/"
BATCH_FILES: Final = 100
BATCH_BYTES: Final = 2 * 2**30  # a commit: what a kill may cost at most, less what the storage has already
_ADDRESS = re.compile(r"hf://datasets/([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]{1,128}))?/?")


class HubPlace:
    """`hf://datasets/user/name[@revision]`. Files are committed in batches; those that are there already are not sent."""

    def __init__(self, address: str, *, private: bool = True) -> None:
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise UsageError(f"{address[:200]!r} is no address", hint=f"{SCHEME}USER/NAME, or with @REVISION behind it")
        self.name, self._repo, self._revision = address.rstrip("/"), found[1], found[2]
        self.shown = self.name
        self._private, self._made = private, False
        self._known: dict[str, tuple[int, str]] | None = None
        try:
            from huggingface_hub import HfApi
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "huggingface_hub is not installed", hint="pip install 'steercache[data]'"
            ) from error
        self._api = HfApi(library_name="steercache")

    def read(self, path: str, *, most: int) -> bytes | None:
        """As `Place.read`."""
        parts, size = [], 0
        try:
            for piece in self.pieces(path, first=0):
                parts.append(piece)
                size += len(piece)
                if size > most:
                    raise DamagedError(f"larger than {most:,} bytes", place=f"{self.name}: {path}")
        except NotFoundError:
            return None
        return b"".join(parts)

    def pieces(self, path: str, *, first: int) -> Iterator[bytes]:
        """As `Place.pieces`."""
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        revision = quote(self._revision or "main", safe="")
        url = f"{self._api.endpoint}/datasets/{self._repo}/resolve/{revision}/{quote(path)}"
        headers = {**build_hf_headers(library_name="steercache"), "Accept-Encoding": "identity"}
        if first:
            headers["Range"] = f"bytes={first}-"
        with self._explained(path), get_session().stream("GET", url, headers=headers, follow_redirects=True) as answer:
            hf_raise_for_status(answer)
            skip = first if first and answer.status_code != 206 else 0  # a server that ignores ranges sends all of it
            for piece in answer.iter_bytes(PIECE):
                yield piece[skip:]
                skip = max(skip - len(piece), 0)

    def lacks(self, files: Sequence[PushedFile]) -> list[PushedFile]:
        """As `Place.lacks`, by the hashes that the hub has."""
        known = self._tree()
        lacking = []
        for file in files:
            size, oid = known.get(file.listed.path, (-1, ""))
            same = size == file.listed.n_bytes and oid in (file.listed.sha256, _git_oid(file) if len(oid) == 40 else "")
            lacking += [] if same else [file]
        return lacking

    def put(self, files: Sequence[PushedFile], *, on_bytes: OnBytes) -> None:
        """As `Place.put`, one commit per batch."""
        for batch in batches(files):
            self._commit({f.listed.path: f.source if f.data is None else f.data for f in batch}, f"{len(batch)} files")
            on_bytes(sum(f.listed.n_bytes for f in batch))

    def finish(self, documents: dict[str, bytes]) -> None:
        """As `Place.finish`."""
        self._commit(dict(documents), "Listing and card")

    def _tree(self) -> dict[str, tuple[int, str]]:
        """(size, SHA-256 or git's id) of every file; makes the repository where there is none."""
        if self._known is None:
            self._make()
            with self._explained(""):
                found: Any = self._api.list_repo_tree(
                    self._repo, recursive=True, repo_type="dataset", revision=self._revision
                )
                files = [f for f in found if hasattr(f, "size")]
            self._known = {f.path: (f.size, f.lfs.sha256 if f.lfs else f.blob_id) for f in files}
        return self._known

    def _make(self) -> None:
        if not self._made:
            with self._explained(""):
                self._api.create_repo(self._repo, repo_type="dataset", private=self._private, exist_ok=True)
            self._made = True

    def _commit(self, files: dict[str, Any], message: str) -> None:
        from huggingface_hub import CommitOperationAdd

        self._make()
        operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in files.items()]
        with self._explained(""):
            self._api.create_commit(
                self._repo, operations, commit_message=message, repo_type="dataset", revision=self._revision
            )

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """What the hub or the network says, as an error with a way out."""
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalTokenNotFoundError

        place = f"{self.name}: {path}" if path else self.name
        try:
            yield
        except SteercacheError:
            raise
        except EntryNotFoundError as error:
            raise NotFoundError("not there", place=place, hint="push again") from error
        except (HfHubHTTPError, LocalTokenNotFoundError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            text = str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
            if status == 404:
                raise NotFoundError(f"no such repository: {text}", place=place, hint="check its name") from error
            hint = "hf auth login, with a token that may write" if status in (401, 403, None) else "try again later"
            raise UsageError(f"the hub refuses: {text}", place=place, hint=hint) from error
        except Exception as error:
            if not type(error).__module__.startswith(("httpx", "httpcore")):
                raise
            hint = "call it again: what was sent or received is kept"
            raise UsageError(f"the connection failed: {error}"[:300], place=place, hint=hint) from error


def batches(files: Sequence[PushedFile]) -> Iterator[list[PushedFile]]:
    """Files in their order, by number and size."""
    batch: list[PushedFile] = []
    size = 0
    for file in files:
        if batch and (len(batch) >= BATCH_FILES or size + file.listed.n_bytes > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.listed.n_bytes
    if batch:
        yield batch


def _git_oid(file: PushedFile) -> str:
    return git_oid(file.source.read_bytes() if file.data is None else file.data)
