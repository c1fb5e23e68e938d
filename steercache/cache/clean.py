"""Documents without traces of the machine that they were written on: absolute paths, host name, home folder."""

import json
import re
import socket
from pathlib import Path
from typing import Any

from steercache.cache.vector_files import HEADER
from steercache.core.errors import UsageError
from steercache.core.ids import canonical_json
from steercache.core.vectors import LOCATED

_PATH = re.compile(r"(?:file://)?(?:~|/[^/\s'\"]+|[A-Za-z]:)(?:[\\/][^\\/'\"\n]*)+")


def clean_json(raw: bytes, name: str) -> bytes:
    """A document without absolute paths; as it was, byte for byte, where it has none."""
    document = json.loads(raw)
    clean = without_paths(document)
    if isinstance(clean, dict) and name == "run.json":
        clean = {**clean, "model_source": None}  # the folder of this machine that the model's manifest lies in
    return raw if clean == document else canonical_json(clean) + b"\n"


def without_paths(value: Any) -> Any:
    """A JSON value whose strings that are absolute paths are reduced to their last part.

    >>> without_paths({"folder": "/home/me/models/tiny", "note": "on/off", "url": "https://a.b/c"})
    {'folder': 'tiny', 'note': 'on/off', 'url': 'https://a.b/c'}
    """
    if isinstance(value, dict):
        return {key: without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    if isinstance(value, str) and _PATH.fullmatch(value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def clean_vector(raw: bytes) -> bytes:
    """A vector's file without where its parts were found on this machine, which its id does not cover."""
    header = json.loads(header_of(raw))
    head = json.loads(header["__metadata__"][HEADER])
    if LOCATED not in head["provenance"]:
        return raw
    head["provenance"] = {key: value for key, value in head["provenance"].items() if key != LOCATED}
    header["__metadata__"][HEADER] = canonical_json(head).decode()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[8 + int.from_bytes(raw[:8], "little") :]


def header_of(raw: bytes) -> bytes:
    """The JSON header of a safetensors file."""
    return raw[8 : 8 + int.from_bytes(raw[:8], "little")]


def refuse_traces(data: bytes, root: Path, place: str) -> None:
    """Raise UsageError when a document still names this machine: its host, the user's home, or where the cache lies."""
    host = socket.gethostname()
    traces = [f"{Path.home()}/", f"{root.resolve()}/", host if len(host) > 5 and host != "localhost" else ""]
    found = [one for one in traces if len(one) > 2 and one.encode() in data]
    if found:
        raise UsageError(
            f"it names this machine ({found[0]})", place=place, hint="make it again from files with relative names"
        )
