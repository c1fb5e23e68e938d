"""A sweep's folder as rows of the index."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from steercache.core.errors import DamagedError
from steercache.core.ids import canonical_json
from steercache.core.trials import Choice
from steercache.index.files import SweepFiles
from steercache.store.durable import read_bytes, write_file_atomically

MANIFEST: Final = "manifest.json"
SEARCHES: Final = "searches.json"
CHOICES: Final = "choices.json"


def read_sweep_files(folder: Path) -> SweepFiles:
    """What the index needs to know of one sweep's folder. Raises DamagedError, and as `read_bytes`."""
    path = folder / MANIFEST
    try:
        document = json.loads(read_bytes(path))
        if document["sweep_id"] != folder.name:
            raise ValueError(f"it is that of the sweep {document['sweep_id']}")
        sweep = {key: document[key] for key in ("sweep_id", "name", "manifest")}
        if not isinstance(document["manifest"], dict):
            raise TypeError("`manifest` is no object")
        sweep["status"] = document.get("status", "complete")
        sweep["created_at"] = _saved_at(document, path)
        cells = {cell["cell_id"]: {"sweep_id": document["sweep_id"], **cell} for cell in document["cells"]}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError) as error:
        raise DamagedError(f"not a sweep's manifest: {error}", place=str(path), hint="run the sweep again") from error
    return SweepFiles(
        sweep=sweep,
        cells=tuple(cells.values()),
        answers=tuple(sorted((folder / "answers").glob("*.parquet"))),
        searches=_read_rows(folder / SEARCHES, "searches", hint="compare again"),
        choices=tuple(asdict(choice) for choice in read_choices(folder)),
    )


def _saved_at(document: Mapping[str, Any], path: Path) -> str:
    """When a sweep was last saved, ISO 8601, UTC; one that does not say so was saved when its file was written."""
    said = document.get("created_at")
    saved = datetime.fromtimestamp(path.stat().st_mtime, UTC) if said is None else datetime.fromisoformat(said)
    return saved.astimezone(UTC).isoformat(timespec="microseconds")


def write_searches(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep what other ways of choosing a cell reach, beside a sweep's answers; keys are columns of `searches`."""
    write_file_atomically(folder / SEARCHES, canonical_json({"searches": list(rows)}) + b"\n")


def write_choices(folder: Path, choices: Sequence[Choice]) -> None:
    """Keep which cell each arm of a sweep took, beside the answers that it was chosen by."""
    write_file_atomically(folder / CHOICES, canonical_json({"choices": [asdict(one) for one in choices]}) + b"\n")


def read_choices(folder: Path) -> tuple[Choice, ...]:
    """What the arms of a sweep took; none where an older steercache wrote the sweep. Raises DamagedError."""
    try:
        return tuple(Choice(**row) for row in _read_rows(folder / CHOICES, "choices", hint="run the sweep again"))
    except TypeError as error:
        raise DamagedError(
            f"not a sweep's choices: {error}", place=str(folder / CHOICES), hint="run the sweep again"
        ) from error


def _read_rows(path: Path, name: str, *, hint: str) -> tuple[Mapping[str, Any], ...]:
    if not path.exists():
        return ()
    try:
        return tuple(dict(row) for row in json.loads(read_bytes(path))[name])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"not a sweep's {name}: {error}", place=str(path), hint=hint) from error
