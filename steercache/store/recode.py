"""Writing a committed shard again with another codec: the same rows and coordinates in another generation."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import DamagedError, UsageError
from steercache.core.layout import LOSSY_CODECS, CodecError, CodecName, FileRecord, SiteLayout, StoreLayout
from steercache.store import durable
from steercache.store.checksum import crc32c
from steercache.store.codecs import ChunkCodec, chunk_codec
from steercache.store.coded_file import CodedFile
from steercache.store.dtypes import bits_dtype, nan_bits, numpy_dtype
from steercache.store.geometry import ShardGeometry, shard_geometry
from steercache.store.int8 import MeasuredError, measure_error
from steercache.store.mapped import VERIFY
from steercache.store.metadata import COORDINATES
from steercache.store.reader import GenerationReader
from steercache.store.shard import coordinate_file_name, site_file_name
from steercache.store.site_file import SiteFile, piece_of
from steercache.store.staging import Staging
from steercache.store.verify import verify_file

Bits = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    source: GenerationReader
    target_path: Path
    layout: StoreLayout
    shard_idx: int
    codec: CodecName
    n_threads: int

    def geometry(self, site: SiteLayout) -> ShardGeometry:
        return shard_geometry(self.layout, site, self.source.n_rows(self.shard_idx))

    def layers(self, site: SiteLayout) -> Iterator[Bits]:
        """The bits of each layer's used rows, shape (n, d)."""
        for layer_pos in range(len(site.layers)):
            yield self.source.shard_layer(site.site, layer_pos, self.shard_idx).view(bits_dtype(self.layout.dtype))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    temporary: Path
    target: Path
    record: FileRecord
    errors: tuple[CodecError, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Recoded:
    """A shard's files with another codec, and what the codec did to each site and layer; () where it is lossless."""

    files: tuple[FileRecord, ...]
    codec_errors: tuple[CodecError, ...] = ()


def recode_shard(
    source: GenerationReader,
    target_path: Path,
    layout: StoreLayout,
    shard_idx: int,
    *,
    codec: CodecName,
    n_threads: int | None = None,
) -> Recoded:
    """Write shard `shard_idx` of `source` into the generation at `target_path` with `codec`, durably; again overwrites.

    The source's files are compared with their checksums first: damage must not get a fresh checksum. What a lossy codec does
    is measured on every row. Up to `n_threads` chunks are encoded at once (by default one per core, at most 8); their number
    moves no byte.

    Raises:
        UsageError: the source is lossy, or `layout` holds other rows. DamagedError: the source's files differ from their
        record. BudgetError: no space.
    """
    _check(source, layout, shard_idx)
    n_threads = n_threads or min(8, os.cpu_count() or 1)
    job = _Job(
        source=source, target_path=target_path, layout=layout, shard_idx=shard_idx, codec=codec, n_threads=n_threads
    )
    written: list[_Written] = []
    try:
        recode_site = _recode_raw if codec == "raw" else _recode_coded
        written.extend(recode_site(job, site) for site in layout.sites)
        written.extend(_copy(job, coordinate_file_name(name, shard_idx)) for name in COORDINATES)
    except BaseException:
        for file in written:
            durable.remove(file.temporary)
        raise
    durable.publish([(file.temporary, file.target) for file in written])
    return Recoded(
        files=tuple(file.record for file in written),
        codec_errors=tuple(error for file in written for error in file.errors),
    )


def _check(source: GenerationReader, layout: StoreLayout, shard_idx: int) -> None:
    place = str(source.path)
    if source.lossy:
        raise UsageError(f"the source is lossy ({source.codec}): recoding it would hide that", place=place)
    if replace(layout, chunk_rows=source.layout.chunk_rows) != source.layout:
        raise UsageError("only codec and chunk_rows may differ from the source", place=place)
    files = [f for f in source.record(shard_idx).files if f.path.startswith(f"{source.path.name}/")]
    problems = [problem for file in files for problem in verify_file(source.path.parent, file)]
    if problems:
        raise DamagedError("; ".join(problems[:3]), place=place, hint=VERIFY)


def _recode_raw(job: _Job, site: SiteLayout) -> _Written:
    inner = site_file_name(site.site, job.shard_idx)
    file = SiteFile(job.target_path / inner, job.geometry(site), Staging())
    try:
        for layer_pos, bits_nd in enumerate(job.layers(site)):
            file.write(layer_pos, bits_nd, [piece_of(0, range(len(bits_nd)))])
        file.seal(job.layout.dtype)
    except BaseException:
        file.discard()
        raise
    record = file.record(f"{job.target_path.name}/{inner}")
    return _Written(temporary=file.temporary, target=file.path, record=record)


def _recode_coded(job: _Job, site: SiteLayout) -> _Written:
    inner = site_file_name(site.site, job.shard_idx)
    geometry = job.geometry(site)
    file = CodedFile(job.target_path / inner, geometry)
    try:
        with ThreadPoolExecutor(job.n_threads, thread_name_prefix="steercache-encode") as pool:
            measured = [_append_layer(job, file, bits_nd, pool) for bits_nd in job.layers(site)]
        file.seal()
    except BaseException:
        file.discard()
        raise
    errors: tuple[CodecError, ...] = ()
    if job.codec in LOSSY_CODECS:
        errors = tuple(one.of(site.site, layer) for layer, one in zip(site.layers, measured, strict=True))
    record = file.record(f"{job.target_path.name}/{inner}")
    return _Written(temporary=file.temporary, target=file.path, record=record, errors=errors)


def _append_layer(job: _Job, file: CodedFile, bits_nd: Bits, pool: ThreadPoolExecutor) -> MeasuredError:
    codec = chunk_codec(job.codec, job.layout.dtype)
    values = numpy_dtype(job.layout.dtype)
    measured = job.codec in LOSSY_CODECS

    def encode(chunk_nd: Bits) -> tuple[bytes, MeasuredError]:
        packed = codec.encode(_filled_up(chunk_nd, file.geometry, nan_bits(job.layout.dtype)))
        error = _error(codec, packed, chunk_nd, file.geometry, values) if measured else MeasuredError()
        return packed, error

    chunk_rows = file.geometry.chunk_rows
    of_layer = MeasuredError()
    for packed, error in pool.map(encode, (bits_nd[s : s + chunk_rows] for s in range(0, len(bits_nd), chunk_rows))):
        file.append([packed])
        of_layer += error
    return of_layer


def _filled_up(chunk_nd: Bits, geometry: ShardGeometry, nan: int) -> Bits:
    if len(chunk_nd) == geometry.chunk_rows:
        return chunk_nd
    whole_nd = np.full((geometry.chunk_rows, geometry.width), nan, dtype=chunk_nd.dtype)
    whole_nd[: len(chunk_nd)] = chunk_nd
    return whole_nd


def _error(
    codec: ChunkCodec, packed: bytes, chunk_nd: Bits, geometry: ShardGeometry, values: np.dtype[Any]
) -> MeasuredError:
    read_nd = codec.decode(packed, (geometry.chunk_rows, geometry.width))[: len(chunk_nd)]
    return measure_error(chunk_nd.view(values), read_nd.view(values))


def _copy(job: _Job, inner: str) -> _Written:
    data = (job.source.path / inner).read_bytes()
    target = job.target_path / inner
    record = FileRecord(path=f"{job.target_path.name}/{inner}", n_bytes=len(data), crc32c=crc32c(data))
    return _Written(temporary=durable.write_temporary(target, data), target=target, record=record)
