"""Replies of judges, kept in the cache by content: the same question to the same model is asked once.

One file per request at `<root>/sae/verdicts/<digest>.json`, with the request, the whole reply, the endpoint that gave it and
the time. A model is known by its name, wherever it is served; the key is in no file.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steercache.core.ids import canonical_json, digest
from steercache.sae.endpoint import JudgeEndpoint, Reply
from steercache.store.durable import make_folder, write_file_atomically

FORMAT = 1


class ReplyFiles:
    """The replies below one cache root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "sae" / "verdicts"

    def path(self, request_digest: str) -> Path:
        """The file of one request."""
        return self.folder / f"{request_digest}.json"

    def read(self, request_digest: str) -> Reply | None:
        """The reply to a request; None where there is none, or where the file is not what was written."""
        try:
            document = json.loads(self.path(request_digest).read_bytes())
            reply, request = document["reply"], document["request"]
            if document["format"] != FORMAT or digest(request) != request_digest or not isinstance(reply["text"], str):
                return None
            return Reply(text=reply["text"], model=reply.get("model"), finish_reason=reply.get("finish_reason"))
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, request: Mapping[str, Any], reply: Reply, *, endpoint: JudgeEndpoint) -> str:
        """Keep a reply; returns the digest of its request."""
        request_digest = digest(request)
        document = {
            "format": FORMAT,
            "request": request,
            "endpoint": _address(endpoint),
            "reply": {"text": reply.text, "model": reply.model, "finish_reason": reply.finish_reason},
            "asked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        make_folder(self.folder)
        write_file_atomically(self.path(request_digest), canonical_json(document))
        return request_digest


def request_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a request is known by: its body, which names the model."""
    return {"body": dict(body)}


def earlier_request_of(endpoint: JudgeEndpoint, body: Mapping[str, Any]) -> dict[str, Any]:
    """What earlier versions knew a request by: the endpoint's address too."""
    return {"endpoint": _address(endpoint), "body": dict(body)}


def _address(endpoint: JudgeEndpoint) -> str:
    return endpoint.base_url.rstrip("/")
