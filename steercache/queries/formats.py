"""A result written batch by batch as CSV, JSON, JSON lines, Parquet or Arrow; memory holds one batch."""

import json
import math
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

FormatName = Literal["csv", "json", "jsonl", "parquet", "arrow"]
Writer = Callable[[pa.RecordBatchReader, BinaryIO], int]  # returns the rows written


def write_csv(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    """RFC 4180 with a header; lists, structs and other values without a CSV form as JSON."""
    return _write_arrow_like(reader, _csv_field, lambda schema: pyarrow.csv.CSVWriter(sink, schema))


def write_parquet(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    """One Parquet file, zstd; intervals and unions, which Parquet lacks, as JSON."""
    return _write_arrow_like(reader, _stored_field, lambda schema: pq.ParquetWriter(sink, schema, compression="zstd"))


def write_arrow(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    """The Arrow IPC stream format."""
    return _write_arrow_like(reader, _stored_field, lambda schema: pyarrow.ipc.new_stream(sink, schema))


def write_jsonl(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    """One JSON object per line."""
    n_rows = 0
    for row in _rows(reader):
        sink.write(_json(row) + b"\n")
        n_rows += 1
    return n_rows


def write_json(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    """One JSON array of objects."""
    n_rows = 0
    for row in _rows(reader):
        sink.write((b"[\n  " if n_rows == 0 else b",\n  ") + _json(row))
        n_rows += 1
    sink.write(b"[]\n" if n_rows == 0 else b"\n]\n")
    return n_rows


WRITERS: dict[FormatName, Writer] = {
    "csv": write_csv,
    "json": write_json,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "arrow": write_arrow,
}


def first_rows(reader: pa.RecordBatchReader, limit: int | None) -> pa.RecordBatchReader:
    """The first `limit` rows; what follows is never computed if it need not be."""
    return reader if limit is None else pa.RecordBatchReader.from_batches(reader.schema, _up_to(reader, limit))


def plain(value: Any) -> Any:
    """A value of a result as JSON knows it: no NaN, whole decimals as integers, times as ISO 8601, bytes as hex."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, pa.MonthDayNano):
        return {"months": value.months, "days": value.days, "nanoseconds": value.nanoseconds}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value)


def _up_to(reader: pa.RecordBatchReader, limit: int) -> Iterator[pa.RecordBatch]:
    left = limit
    while left > 0:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        yield batch.slice(0, left)
        left -= batch.num_rows


def _rows(reader: pa.RecordBatchReader) -> Iterator[dict[str, Any]]:
    for batch in reader:
        yield from batch.to_pylist()


def _json(row: dict[str, Any]) -> bytes:
    return json.dumps(plain(row), ensure_ascii=False).encode(errors="replace")


def _write_arrow_like(
    reader: pa.RecordBatchReader, field_of: Callable[[pa.Field], pa.Field], open_writer: Callable[[pa.Schema], Any]
) -> int:
    schema, n_rows = pa.schema([field_of(f) for f in reader.schema]), 0
    with open_writer(schema) as writer:
        for batch in reader:
            columns = [_as(column, field) for column, field in zip(batch.columns, schema, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            n_rows += batch.num_rows
    return n_rows


def _as(column: Any, field: pa.Field) -> Any:
    """`column` in the type of `field`: itself, a decoded dictionary, or its values as JSON text."""
    if column.type == field.type:
        return column
    if pa.types.is_dictionary(column.type):
        return column.cast(field.type)
    texts = [None if v is None else json.dumps(plain(v), ensure_ascii=False) for v in column.to_pylist()]
    return pa.array(texts, pa.string())


def _stored_field(field: pa.Field) -> pa.Field:
    if pa.types.is_dictionary(field.type):  # a stream of batches may change its dictionary, a file may not
        return field.with_type(field.type.value_type)
    return field.with_type(pa.string()) if pa.types.is_interval(field.type) or pa.types.is_union(field.type) else field


def _csv_field(field: pa.Field) -> pa.Field:
    kind = _stored_field(field).type
    flat = not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
    return field.with_type(kind if flat else pa.string())
