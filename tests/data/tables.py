"""Rows written to disk in each format, and the manifest that reads them back."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.examples import Example
from steercache.data import DataSet, open_dataset
from steercache.manifests.dataset import DatasetManifest

Rows = Iterable[Mapping[str, Any]]


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")


def write_csv(path: Path, rows: Rows) -> None:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, row_group_size=3)


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


def dataset(base_dir: Path, source: Mapping[str, Any], **fields: Any) -> DataSet:
    """The data set of an inline manifest named `d`."""
    document = {"kind": "dataset", "version": 1, "name": "d", "source": source, **fields}
    return open_dataset(DatasetManifest.model_validate_json(json.dumps(document)), base_dir=base_dir)


def inputs_and_labels(examples: Iterable[Example]) -> list[tuple[Any, ...]]:
    """What must be the same however the rows are stored: everything but the place."""
    return [(e.text, e.system, e.completion, e.chat, e.labels) for e in examples]
