"""Compare every committed file with its record: sizes, checksums of files and of chunks, Parquet against arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.cache.answer_files import read_answers
from steercache.cache.documents import RunDocument, shares_rows
from steercache.cache.feature_files import feature_shards, read_encoding_document
from steercache.cache.handle import CacheFolder
from steercache.cache.non_finite import REMEDIES, describe_non_finite
from steercache.cache.paths import RunPaths
from steercache.cache.source import current_generation, readable_shards
from steercache.cache.sweep_files import MANIFEST, read_sweep_files
from steercache.cache.vector_files import read_vector
from steercache.core.errors import DamagedError, NotFoundError, SteercacheError
from steercache.core.ids import SHORT_ID
from steercache.core.layout import FileRecord, ShardRecord
from steercache.objects.blocks import requests_pool
from steercache.store.verify import verify_file, verify_metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, where, and what mends it; `values`: the files are whole, but hold rows that are not finite."""

    severity: Literal["damage", "leftover", "values"]
    place: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedShard:
    """What a step of the verification looked at."""

    run_id: str
    shard_idx: int
    n_bytes: int
    findings: tuple[Finding, ...]


def verify_run(cache: CacheFolder, run_id: str) -> Iterator[VerifiedShard]:
    """Check one run shard by shard, so that a caller can show progress."""
    paths = cache.run_paths(run_id)
    document = cache.run_document(run_id)
    remedy = f"remove the damaged shards of {document.name}, then build again"
    if cache.remote is not None:
        remedy = f"push {document.name} again from a sound copy"
    generation = current_generation(paths)
    named = [
        Finding(
            severity="damage",
            place=f"runs/{run_id[:SHORT_ID]}/{generation}",
            message=message,
            remedy="restore it from a copy",
        )
        for message in verify_metadata(paths.generation(generation))
    ]
    if named:
        yield VerifiedShard(run_id=run_id, shard_idx=-1, n_bytes=0, findings=tuple(named))
    records, unreadable = readable_shards(paths, generation)
    for shard_idx, error in unreadable.items():
        found = [_finding(cache, error, remedy=remedy)]
        yield VerifiedShard(run_id=run_id, shard_idx=shard_idx, n_bytes=0, findings=tuple(found))
    for record in records:
        found = [
            Finding(severity="damage", place=f"runs/{run_id[:SHORT_ID]}/{file.path}", message=message, remedy=remedy)
            for file, messages in zip(record.files, _problems(cache, run_id, record.files), strict=True)
            for message in messages
        ]
        found += [
            Finding(severity="damage", place=f"runs/{run_id[:SHORT_ID]}", message=message, remedy=remedy)
            for message in _tables(paths, record, shared=shares_rows(document))
        ]
        if record.non_finite:
            found.append(_values(record, document))
        yield VerifiedShard(run_id=run_id, shard_idx=record.shard_idx, n_bytes=record.n_bytes, findings=tuple(found))


def _problems(cache: CacheFolder, run_id: str, files: Sequence[FileRecord]) -> list[list[str]]:
    """What is wrong with each of some files of a run: with the one here, and with the one elsewhere that it is a mirror of."""
    remote, folder = cache.remote, cache.run_paths(run_id).folder
    if remote is None:
        return [verify_file(folder, file) for file in files]
    there = requests_pool().map(lambda file: remote.problems(run_id, file), files)
    here = [verify_file(folder, file) if (folder / file.path).exists() else [] for file in files]
    mirrored = [[f"{message} (where it is mirrored)" for message in messages] for messages in here]
    return [[*one, *other] for one, other in zip(there, mirrored, strict=True)]


def _values(record: ShardRecord, document: RunDocument) -> Finding:
    return Finding(
        severity="values",
        place=f"runs/{document.run_id[:SHORT_ID]}, shard {record.shard_idx}",
        message=describe_non_finite(record.non_finite or (), n_rows=record.n_rows),
        remedy=REMEDIES[document.layout.dtype],
    )


def verify_vectors(cache: CacheFolder) -> list[Finding]:
    """Check that every vector file holds what its id says."""
    findings = []
    for path in sorted(cache.paths.vectors.glob("*.safetensors")) if cache.paths.vectors.is_dir() else ():
        try:
            read_vector(path)
        except (DamagedError, NotFoundError) as error:
            findings.append(_finding(cache, error, remedy="restore it from a copy, or fit it again"))
    return findings


def verify_sweeps(cache: CacheFolder) -> list[Finding]:
    """Check that every sweep's manifest and files of answers can be read."""
    findings = []
    for folder in cache.paths.sweep_folders():
        try:
            parts = read_sweep_files(folder).answers if (folder / MANIFEST).exists() else ()
        except DamagedError as error:
            findings.append(_finding(cache, error, remedy="run the sweep again"))
            continue
        for part in parts:
            try:
                read_answers(part)
            except DamagedError as error:
                findings.append(_finding(cache, error, remedy="remove it and run the sweep again"))
    return findings


def verify_encodings(cache: CacheFolder, run_ids: Sequence[str] | None = None) -> tuple[list[Finding], int]:
    """Check every file of features (of some runs, or of all) against its record; returns what is wrong, and the bytes that
    were read."""
    findings, n_bytes = [], 0
    for paths in cache.paths.encoding_folders():
        if run_ids is not None and paths.folder.name not in run_ids:
            continue
        remedy = "remove what is named, then encode the run again: that computes what is missing"
        records, unreadable = feature_shards(paths)
        errors = list(unreadable.values())
        if paths.document.exists() or records:
            try:
                read_encoding_document(paths)
            except (DamagedError, NotFoundError) as error:
                errors.append(DamagedError(error.message, place=error.place))
        findings += [_finding(cache, DamagedError(error.message, place=error.place), remedy=remedy) for error in errors]
        for record in records.values():
            place = _with_short_id((paths.folder / record.file.path).relative_to(cache.root).as_posix())
            findings += [
                Finding(severity="damage", place=place, message=message, remedy=remedy)
                for message in verify_file(paths.folder, record.file)
            ]
            n_bytes += record.n_bytes
    return findings, n_bytes


def _finding(cache: CacheFolder, error: SteercacheError, *, remedy: str) -> Finding:
    """What an error says, with `remedy` where the error itself knows none but to verify, which led here."""
    place = Path(error.place or cache.root)
    inside = place.relative_to(cache.root).as_posix() if place.is_relative_to(cache.root) else str(place)
    mends = error.hint if error.hint and not error.hint.startswith("steercache cache verify") else remedy
    return Finding(severity="damage", place=_with_short_id(inside), message=error.message, remedy=mends)


def _with_short_id(place: str) -> str:
    folder, *rest = place.split("/")
    n_ids = {"runs": 1, "sae": 2}.get(folder, 0)
    return "/".join((folder, *(part[:SHORT_ID] for part in rest[:n_ids]), *rest[n_ids:]))


def _tables(paths: RunPaths, record: ShardRecord, *, shared: bool) -> list[str]:
    """Rows that Parquet names against rows that the arrays have; each counts once where tokens share them."""
    problems = []
    for path, kind in ((paths.tokens(record.shard_idx), "rows"), (paths.samples(record.shard_idx), "samples")):
        try:
            table = pq.read_table(path.absolute(), columns=["row_idx"] if kind == "rows" else ["sample_idx"])
        except (OSError, pa.ArrowException) as error:
            problems.append(f"{kind}/{path.name} cannot be read: {error}")
            continue
        expected = record.n_rows if kind == "rows" else record.n_samples
        column = table.column(0).drop_null()
        counted = len(column.unique()) if shared else len(column)
        if counted != expected:
            problems.append(f"{kind}/{path.name} names {counted} {kind}, the shard has {expected}")
    return problems


def verify_root(cache: CacheFolder, run_ids: Sequence[str] | None = None) -> Iterator[VerifiedShard]:
    """Check the runs named, or every run, vector, sweep and encoding of the cache; a run whose documents cannot be read is a
    finding."""
    runs = [*cache.paths.all_runs(), *cache.paths.runs_without_document()]
    for run_id in run_ids if run_ids is not None else [run.folder.name for run in runs]:
        try:
            yield from verify_run(cache, run_id)
        except (DamagedError, NotFoundError) as error:
            remedy = f"restore it from a copy, or steercache cache rm {run_id[:SHORT_ID]}, then build again"
            found = _finding(cache, error, remedy=remedy)
            yield VerifiedShard(run_id=run_id, shard_idx=-1, n_bytes=0, findings=(found,))
    of_features, n_bytes = verify_encodings(cache, run_ids)
    beside = [*verify_vectors(cache), *verify_sweeps(cache)] if run_ids is None else []
    if run_ids is None or of_features or n_bytes:
        yield VerifiedShard(run_id="", shard_idx=-1, n_bytes=n_bytes, findings=(*beside, *of_features))
