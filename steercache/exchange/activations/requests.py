"""The list of requests that an engine was sent: JSON lines with `id`, `token_ids` and optionally `text`."""

import json
from pathlib import Path
from typing import Any

from steercache.core.errors import ManifestError, NotFoundError, Problem
from steercache.exchange.activations.captured import Request, ids_of


def read_requests(path: Path) -> dict[str, Request]:
    """The requests by id, in the file's order.

    Raises:
        NotFoundError: there is no such file. ManifestError: lines that are no requests, or an id that comes twice.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise NotFoundError("no list of requests there", place=str(path)) from error
    found: dict[str, Request] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            request = _request(json.loads(line))
            if request.key in found:
                raise ValueError("this id has come before")
            found[request.key] = request
        except (ValueError, RecursionError) as error:
            problems.append(Problem(loc="", kind="request", message=str(error), file=str(path), line=number))
    if problems:
        raise ManifestError(
            f"{len(problems)} lines are no requests",
            problems=problems,
            place=str(path),
            hint='one a line: {"id": "...", "token_ids": [...], "text": "..."}',
        )
    return found


def _request(said: Any) -> Request:
    if not isinstance(said, dict) or not isinstance(said.get("id"), str | int):
        raise ValueError("no object with an `id`")
    text, ids = said.get("text"), said.get("token_ids")
    if text is not None and not isinstance(text, str):
        raise ValueError("`text` is no text")
    return Request(key=str(said["id"]), token_ids=None if ids is None else ids_of(ids), text=text)
