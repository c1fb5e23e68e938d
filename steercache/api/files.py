"""A data file as a trace: the columns are found by their usual names, so that no manifest has to be written."""

import csv
import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from steercache.core.errors import NotFoundError, UsageError
from steercache.manifests.dataset import Columns, PairColumns
from steercache.manifests.documents import DatasetManifest, TraceManifest
from steercache.manifests.resolve import ResolvedTrace

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet", ".txt": "text"}
LABELS = ("anchor", "concept", "split", "question", "choices", "answer", "group", "pair", "polarity", "image", "system")
ALIASES = {"sentence": "text", "prompt": "text", "word": "anchor", "label": "concept", "images": "image"}
SIDES = ("positive", "negative")
SHOWN_COLUMNS = 8  # of those that a manifest does not name


def trace_of_file(trace: str | Path, *, model: str | None) -> tuple[TraceManifest, Path] | None:
    """The trace of a data file through `model`, and the folder its paths are relative to; None for anything but a data file.

    A .csv, .jsonl or .parquet file has a column `text` (or `sentence`, `prompt`) and any of `anchor` (or `word`), `concept` (or
    `label`), `split`, `question`, `choices`, `answer`, `group`, `pair`, `polarity`, `image`; with columns `positive` and
    `negative` every row is a contrastive pair. A .txt file has one sample per line.

    Raises:
        NotFoundError: no such file; UsageError: no model, no text column, or a file that cannot be read.
    """
    path = Path(trace)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        return None
    if not path.is_file():
        raise NotFoundError("no such file", place=str(path))
    if model is None:
        raise UsageError(
            "a data file needs the name of a model to trace it with",
            place=str(path),
            hint="name a model, such as smollm2-135m",
        )
    dataset = dataset_of_file(path, kind=kind)
    document = {"kind": "trace", "version": 1, "name": dataset["name"], "model": model, "datasets": [dataset]}
    return TraceManifest.model_validate_json(json.dumps(document)), path.resolve().parent


def dataset_of_file(path: Path, *, kind: str) -> dict[str, Any]:
    """The data set manifest of a data file, as JSON values. Raises UsageError."""
    head: dict[str, Any] = {"kind": "dataset", "version": 1, "name": plain_name(path.stem)}
    if kind == "text":
        return head | {"source": {"type": "text", "path": path.name}}
    names = column_names(path, kind)
    if all(side in names for side in SIDES):
        columns: dict[str, Any] = {side: side for side in SIDES}
        columns |= {name: name for name in ("prompt", "concept", "split", "group") if name in names}
        return _checked(head | {"source": {"type": "pairs", "path": path.name, "columns": columns}})
    columns = {}
    for name in names:
        meaning = ALIASES.get(name.strip().lower(), name.strip().lower())
        if meaning in ("text", *LABELS) and meaning not in columns:
            columns[meaning] = name
    if "text" not in columns:
        shown = ", ".join(names) or "none"
        raise UsageError(
            f"no column of texts: a column must be called text, sentence or prompt; the columns are: {shown}",
            place=str(path),
            hint="rename the column, or write a data set manifest that names it under `columns`",
        )
    columns["meta"] = [name for name in names if name not in columns.values()][:64]
    anchors = {"anchors": "optional"} if "anchor" in columns else {}
    chat = {"chat": {"apply": True}} if "system" in columns else {}
    return _checked(head | {"source": {"type": kind, "path": path.name, "columns": columns}} | anchors | chat)


def notes_on_columns(trace: ResolvedTrace) -> tuple[str, ...]:
    """One sentence per data file with columns that its manifest does not name: their values are not in the cache."""
    notes = []
    for dataset in trace.datasets:
        source, folder = dataset.document.source, dataset.base_dir
        columns, path = getattr(source, "columns", None), getattr(source, "path", None)
        kind = SUFFIXES.get(Path(path or "").suffix.lower(), "") if source.type == "pairs" else source.type
        if columns is None or path is None or kind not in ("csv", "jsonl", "parquet"):
            continue
        named = {
            name for value in columns.model_dump().values() for name in (value if isinstance(value, tuple) else [value])
        }
        try:
            names = column_names(folder / path, kind, delimiter=getattr(source, "delimiter", ","))
        except UsageError:  # the reader of the rows names every problem of the file
            continue
        unread = [name for name in dict.fromkeys(names) if name not in named]
        if unread:
            notes.append(_note_on_columns(dataset.document.name, path, unread, type(columns)))
    return tuple(notes)


def _note_on_columns(dataset: str, path: str, unread: list[str], kind: type[Columns | PairColumns]) -> str:
    """What is not read, and what to write into the manifest to keep it."""
    fields = [name for name in kind.model_fields if name not in ("text", "meta")]
    usual = {name: ALIASES.get(name.strip().lower(), name.strip().lower()) for name in unread[:SHOWN_COLUMNS]}
    ways = [f"{meaning}: {name}" for name, meaning in usual.items() if meaning in fields]
    others = [name for name, meaning in usual.items() if meaning not in fields]
    ways += [f"meta: [{', '.join(others)}]"] if others and kind is not PairColumns else []
    more = f" and {len(unread) - SHOWN_COLUMNS} more" if len(unread) > SHOWN_COLUMNS else ""
    columns = ", ".join(unread[:SHOWN_COLUMNS]) + more
    note = f"{path}: data set {dataset} does not name the columns {columns}, so they are not kept"
    return f"{note}; to keep them as labels, add `columns: {{{', '.join(ways)}}}` to its source" if ways else note


def column_names(path: Path, kind: str, *, delimiter: str = ",") -> list[str]:
    """Names of a table's columns, in order. Raises UsageError for a file that cannot be read as `kind`."""
    try:
        if kind == "parquet":
            return list(pq.read_schema(path).names)
        with path.open(encoding="utf-8-sig", newline="") as file:
            if kind == "csv":
                return next(csv.reader(file, delimiter=delimiter), [])
            keys: dict[str, None] = {}
            for line in islice((line for line in file if line.strip()), 100):
                found = json.loads(line)
                keys |= dict.fromkeys(found) if isinstance(found, dict) else {}
            return list(keys)
    except (ValueError, RecursionError, OSError, csv.Error) as error:
        raise UsageError(f"cannot be read as {kind}: {error}", place=str(path), hint="save it as UTF-8") from error


def plain_name(stem: str) -> str:
    """A file's stem as manifests may have it.

    >>> plain_name("My sentences (v2)")
    'my-sentences-v2'
    """
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:80] or "data"


def _checked(document: dict[str, Any]) -> dict[str, Any]:
    DatasetManifest.model_validate_json(json.dumps(document))
    return document
