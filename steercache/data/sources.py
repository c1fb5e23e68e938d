"""The sources by the word in a manifest's `source.type`: each gives rows, and what reads a row as examples."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steercache.data.arrow import parquet_rows
from steercache.data.concept_set import FOLDER, concept_rows
from steercache.data.examples import RowReader, pair_reader, row_reader, wanted_columns
from steercache.data.hub import hub_rows
from steercache.data.lines import csv_rows, jsonl_rows, text_rows
from steercache.data.questions import benchmark_rows, question_reader, scene_rows
from steercache.data.rows import Rows, data_file
from steercache.manifests.dataset import Columns, DatasetManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSource:
    """Rows that can be read as often as wanted, and what makes examples of one."""

    rows: Callable[[], Rows]
    read: RowReader


def _jsonl(manifest: DatasetManifest, source: Any, base_dir: Path) -> OpenSource:
    path = data_file(base_dir, source.path)
    return OpenSource(
        rows=lambda: jsonl_rows(path, source.path), read=row_reader(manifest, source.columns, path.parent)
    )


def _csv(manifest: DatasetManifest, source: Any, base_dir: Path) -> OpenSource:
    path = data_file(base_dir, source.path)
    wanted = wanted_columns(source.columns)
    return OpenSource(
        rows=lambda: csv_rows(path, source.path, wanted=wanted, delimiter=source.delimiter),
        read=row_reader(manifest, source.columns, path.parent),
    )


def _parquet(manifest: DatasetManifest, source: Any, base_dir: Path) -> OpenSource:
    path = data_file(base_dir, source.path)
    wanted = wanted_columns(source.columns)
    return OpenSource(
        rows=lambda: parquet_rows(path, source.path, wanted=wanted),
        read=row_reader(manifest, source.columns, path.parent),
    )


def _text(manifest: DatasetManifest, source: Any, base_dir: Path) -> OpenSource:
    path = data_file(base_dir, source.path)
    return OpenSource(
        rows=lambda: text_rows(path, source.path, source.unit), read=row_reader(manifest, Columns(), path.parent)
    )


def _hf(manifest: DatasetManifest, source: Any, base_dir: Path) -> OpenSource:
    wanted = wanted_columns(source.columns)
    folder = base_dir / source.path if source.path else None
    return OpenSource(
        rows=lambda: hub_rows(source, base_dir, wanted=wanted), read=row_reader(manifest, source.columns, folder)
    )


def _pairs(manifest: DatasetManifest, source: Any, base_dir: Path) -> OpenSource:
    path = data_file(base_dir, source.path)
    wanted = wanted_columns(source.columns)
    by_suffix: dict[str, Callable[[], Rows]] = {
        ".jsonl": lambda: jsonl_rows(path, source.path),
        ".csv": lambda: csv_rows(path, source.path, wanted=wanted),
        ".parquet": lambda: parquet_rows(path, source.path, wanted=wanted),
    }
    return OpenSource(rows=by_suffix[path.suffix.lower()], read=pair_reader(manifest, source.columns))


def _concepts(manifest: DatasetManifest, source: Any, base_dir: Path) -> OpenSource:
    columns = Columns(text="text", anchor="anchor", concept="concept")
    return OpenSource(rows=lambda: concept_rows(source.concepts), read=row_reader(manifest, columns, FOLDER))


def _benchmark(manifest: DatasetManifest, source: Any, base_dir: Path) -> OpenSource:
    return OpenSource(rows=lambda: benchmark_rows(source, base_dir), read=question_reader(manifest, source.prefix))


def _scenes(manifest: DatasetManifest, source: Any, base_dir: Path) -> OpenSource:
    return OpenSource(rows=lambda: scene_rows(source), read=question_reader(manifest, source.prefix))


SOURCES: dict[str, Callable[[DatasetManifest, Any, Path], OpenSource]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "text": _text,
    "hf": _hf,
    "pairs": _pairs,
    "concepts": _concepts,
    "benchmark": _benchmark,
    "scenes": _scenes,
}
