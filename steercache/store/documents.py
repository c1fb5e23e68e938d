"""Layouts and shard records as JSON: strict on the way in, since a document may be damaged or written by a newer version."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from steercache.core.errors import DamagedError
from steercache.core.excerpts import excerpt
from steercache.core.layout import CodecError, FileRecord, NonFinite, ShardRecord, SiteLayout, StoreLayout


@contextmanager
def _reading(noun: str, place: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedError(f"not a {noun}: {what}", place=place, hint="steercache cache verify") from error


def layout_to_json(layout: StoreLayout) -> dict[str, Any]:
    """A layout as JSON values."""
    document = asdict(layout)
    document["sites"] = [{**site, "layers": list(site["layers"])} for site in document["sites"]]
    return document


def layout_from_json(obj: Any, place: str) -> StoreLayout:
    """The layout that `layout_to_json` wrote.

    Raises:
        DamagedError: `obj` is nothing that it writes; `place` is named.
    """
    with _reading("layout", place):
        sites = tuple(
            SiteLayout(
                site=s["site"], layers=tuple(_count(n, least=-1) for n in _list(s["layers"])), width=_count(s["width"])
            )
            for s in _list(obj["sites"])
        )
        counts = {name: _count(obj[name]) for name in ("n_shards", "rows_per_shard", "chunk_rows")}
        if obj["dtype"] not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"unknown dtype {excerpt(obj['dtype'])}")
        return StoreLayout(sites=sites, dtype=obj["dtype"], **counts)


_SPECIAL = (
    "files",
    "non_finite",
    "computed_otherwise",
    "codec_errors",
)  # of a shard record: written in a way of their own, or left out


def shard_record_to_json(record: ShardRecord) -> dict[str, Any]:
    """A shard record as JSON values; checksums as hexadecimal text, eight digits each."""
    document = {name: getattr(record, name) for name in record.__slots__ if name not in _SPECIAL}
    if record.computed_otherwise:
        document["computed_otherwise"] = list(record.computed_otherwise)
    if record.codec_errors:
        document["codec_errors"] = [asdict(part) for part in record.codec_errors]
    if record.non_finite is not None:
        document["non_finite"] = [asdict(part) for part in record.non_finite]
    document["files"] = [
        {
            "path": f.path,
            "n_bytes": f.n_bytes,
            "crc32c": f"{f.crc32c:08x}",
            "chunk_crc32c": struct.pack(f">{len(f.chunk_crc32c)}I", *f.chunk_crc32c).hex(),
        }
        for f in record.files
    ]
    return document


def shard_record_from_json(obj: Any, place: str) -> ShardRecord:
    """The record that `shard_record_to_json` wrote.

    Raises:
        DamagedError: `obj` is nothing that it writes; `place` is named.
    """
    with _reading("shard record", place):
        counts = {name: _count(obj[name]) for name in ("shard_idx", "first_sample", "n_samples", "n_rows")}
        files = tuple(_file_record(f) for f in _list(obj["files"]))
        errors = tuple(_codec_error(part, n_rows=counts["n_rows"]) for part in _list(obj.get("codec_errors", [])))
        counted = (
            None if obj.get("non_finite") is None else tuple(_non_finite(part) for part in _list(obj["non_finite"]))
        )
        otherwise = tuple(_text(phrase) for phrase in _list(obj.get("computed_otherwise", [])))
        return ShardRecord(
            **counts,
            input_digest=_text(obj["input_digest"]),
            files=files,
            non_finite=counted,
            computed_otherwise=otherwise,
            codec_errors=errors,
        )


def _codec_error(obj: Any, *, n_rows: int) -> CodecError:
    site: Any = _text(obj["site"])
    if _count(obj["n_rows"]) > n_rows:
        raise ValueError(f"an error of {obj['n_rows']} rows, of {n_rows}")
    measures = ("mean_relative", "max_relative", "max_abs", "mean_cosine", "min_cosine")
    return CodecError(
        site=site,
        layer=_count(obj["layer"], least=-1),
        n_rows=obj["n_rows"],
        **{name: _number(obj[name]) for name in measures},
    )


def _non_finite(obj: Any) -> NonFinite:
    site: Any = _text(obj["site"])
    return NonFinite(site=site, layer=_count(obj["layer"], least=-1), n_rows=_count(obj["n_rows"], least=1))


def _file_record(obj: Any) -> FileRecord:
    path = _text(obj["path"])
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path:
        raise ValueError(f"a path outside the run: {excerpt(path)}")
    chunks = bytes.fromhex(obj["chunk_crc32c"])
    crc = bytes.fromhex(obj["crc32c"])
    return FileRecord(
        path=path,
        n_bytes=_count(obj["n_bytes"]),
        crc32c=struct.unpack(">I", crc)[0],
        chunk_crc32c=struct.unpack(f">{len(chunks) // 4}I", chunks),
    )


def _count(value: Any, *, least: int = 0) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"a count was expected, not {excerpt(value)}")
    return value


def _number(value: Any) -> float:
    if type(value) is not float and (type(value) is not int or abs(value) > 2**53):
        raise ValueError(f"a number was expected, not {excerpt(value)}")
    return float(value)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError(f"a list was expected, not {excerpt(value)}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"text was expected, not {excerpt(value)}")
    return value
