"""A selection in a file of another tool: Parquet, Arrow, a `datasets` folder, safetensors or `.npy`; streamed."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.errors import UsageError
from steercache.core.ids import canonical_json
from steercache.exchange.activations.tables import ExportRequest, batches_of, parts_of, schema_of, tokens_of
from steercache.store.durable import disk_errors

FileFormat = Literal["parquet", "arrow", "datasets", "safetensors", "npy"]
SUFFIXES: Final[dict[str, FileFormat]] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".safetensors": "safetensors",
}
BATCHES_PER_FILE: Final = 16  # of a `datasets` folder: half a gigabyte a file
TOKENS_FILE: Final = "tokens.parquet"
_SAFETENSORS: Final = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int8": "I8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: `n_rows` rows of `layers` each, in `path`."""

    path: Path
    file_format: FileFormat
    n_rows: int
    layers: tuple[int, ...]
    n_bytes: int


def export(request: ExportRequest, path: Path, file_format: FileFormat) -> Exported:
    """Write a selection. The file or folder takes its name when it is complete; a file that is there is replaced.

    Raises:
        UsageError: a folder is there already, or the place cannot be written. BudgetError: the disk is full.
    """
    folder = file_format in ("datasets", "npy")
    if path.exists() and (folder or path.is_dir()):
        raise UsageError("there is something already", place=str(path), hint="another name, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), _unfinished(path) as part:
        _WRITERS[file_format](request, part)
        part.replace(path)
    files = [p for p in path.rglob("*") if p.is_file()] if folder else [path]
    n_bytes = sum(p.stat().st_size for p in files)
    return Exported(path=path, file_format=file_format, n_rows=request.n_rows, layers=request.layers, n_bytes=n_bytes)


def format_of(path: Path, named: FileFormat | None) -> FileFormat:
    """The format that a file's suffix means, unless one is named. Raises UsageError for a suffix that means none."""
    found = named or SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageError(
            f"the name {path.name!r} does not say which format is wanted",
            place=str(path),
            hint=f"name the format, or end the name in {', '.join(SUFFIXES)}",
        )
    return found


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under; what is left there when the block fails is removed."""
    part = path.with_name(f".{path.name}.part")
    _remove(part)
    try:
        yield part
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _parquet(request: ExportRequest, path: Path) -> None:
    with pq.ParquetWriter(path, schema_of(request), compression="zstd") as writer:
        for batch in batches_of(request):
            writer.write_batch(batch)


def _arrow(request: ExportRequest, path: Path) -> None:
    """The Arrow file format (Feather 2), uncompressed, so that it can be memory-mapped."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema_of(request)) as writer:
        for batch in batches_of(request):
            writer.write_batch(batch)


def _datasets(request: ExportRequest, path: Path) -> None:
    """What `datasets.load_from_disk` reads: Arrow streams, and two JSON files that name their columns."""
    path.mkdir()
    schema = schema_of(request)
    info = {"features": {field.name: _feature(field.type) for field in schema}}
    schema = schema.with_metadata({**schema.metadata, "huggingface": json.dumps({"info": info})})
    names: list[str] = []
    batches = batches_of(request)
    while first := next(batches, None):
        name = f"data-{len(names):05d}.arrow"
        with pa.OSFile(str(path / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in (first, *islice(batches, BATCHES_PER_FILE - 1)):
                writer.write_batch(batch.cast(schema) if batch.schema.metadata != schema.metadata else batch)
        names.append(name)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": f"{request.selection.run_id[:8]}{request.n_rows:08x}",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (path / "state.json").write_text(json.dumps(state, indent=2))
    described = {"citation": "", "description": json.dumps(request.provenance()), "homepage": "", "license": ""}
    (path / "dataset_info.json").write_text(json.dumps(described | info, indent=2))


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "List"}
    return {"dtype": {"float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


def _safetensors(request: ExportRequest, path: Path) -> None:
    """One tensor (n, d) per layer in the dtype that is stored, and the coordinates of the rows; the header names the rest."""
    sel, n = request.selection, request.n_rows
    coordinates: dict[str, npt.NDArray[Any]] = {
        "row_idx": sel.rows,
        "sample_idx": sel.sample_idx,
        "position": sel.position,
        "token_id": sel.token_id,
    }
    optional = {"label": sel.label, "pair": sel.pair, "weight": sel.weight}
    arrays = coordinates | {name: values for name, values in optional.items() if values is not None}
    header: dict[str, Any] = {"__metadata__": {"steercache": canonical_json(request.provenance()).decode()}}
    offset = 0
    shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        request.column(layer): (request.stored, (n, request.width)) for layer in request.layers
    }
    for name, (dtype, shape) in (shapes | {name: (a.dtype, a.shape) for name, a in arrays.items()}).items():
        size = int(np.prod(shape)) * dtype.itemsize
        said = {"dtype": _SAFETENSORS[dtype.name], "shape": list(shape), "data_offsets": [offset, offset + size]}
        header[name] = said
        offset += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for layer in request.layers:
            for part in parts_of(request, n_layers=1):
                _write(file, sel.gather(layer, part=part, dtype="stored"))
        for array in arrays.values():
            _write(file, np.asarray(array))


def _npy(request: ExportRequest, path: Path) -> None:
    """A folder with one (n, d) array of float32 per layer, and `tokens.parquet` with a line for each row."""
    path.mkdir()
    said = {"descr": "<f4", "fortran_order": False, "shape": (request.n_rows, request.width)}
    for layer in request.layers:
        with (path / f"{request.column(layer)}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, said)
            for part in parts_of(request, n_layers=1):
                _write(file, request.selection.gather(layer, part=part))
    metadata = {"steercache": canonical_json(request.provenance()).decode()}
    schema = tokens_of(request, slice(0, 1)).schema.with_metadata(metadata)
    with pq.ParquetWriter(path / TOKENS_FILE, schema, compression="zstd") as writer:
        for part in parts_of(request, n_layers=1):
            writer.write_table(tokens_of(request, part).replace_schema_metadata(metadata))


def _write(file: BinaryIO, values: npt.NDArray[Any]) -> None:
    file.write(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)


_WRITERS: Final[dict[FileFormat, Callable[[ExportRequest, Path], None]]] = {
    "parquet": _parquet,
    "arrow": _arrow,
    "datasets": _datasets,
    "safetensors": _safetensors,
    "npy": _npy,
}
