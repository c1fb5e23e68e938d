"""What is in a cache, how large it is, and what of it is damaged."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from steercache.cache.codec_errors import LayerError, layer_errors
from steercache.cache.documents import RunDocument
from steercache.cache.feature_files import all_encodings
from steercache.cache.handle import CacheFolder
from steercache.cache.non_finite import sum_non_finite
from steercache.cache.remote import RemoteStatus
from steercache.cache.remove import leftovers
from steercache.cache.source import current_generation, readable_shards
from steercache.core.errors import DamagedError
from steercache.core.layout import NonFinite


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """One run at a glance; sizes in bytes.

    A shard whose record cannot be read is damaged and not among the committed ones. `non_finite` names the layers with
    rows that are not finite, as far as they were counted. `codec_error` is empty where the codec is lossless. Flat: a row of
    the table of `cache status`.
    """

    run_id: str
    name: str
    model: str
    datasets: tuple[str, ...]
    sites: tuple[str, ...]
    n_layers: int
    dtype: str
    codec: str
    generation: str
    n_samples: int
    n_rows: int
    n_shards: int
    n_shards_committed: int
    n_bytes: int
    created_at: str
    n_shards_damaged: int = 0
    non_finite: tuple[NonFinite, ...] = ()
    codec_error: tuple[LayerError, ...] = ()

    @property
    def complete(self) -> bool:
        return self.n_shards == self.n_shards_committed


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingStatus:
    """A run's rows as features of an SAE, at a glance; sizes in bytes. `n_rows_stale` are of another generation than is in
    force, `n_rows_missing` are committed in the run and not encoded."""

    sae_id: str
    sae: str
    run_id: str
    site: str
    layer: int
    n_features: int
    n_rows: int
    n_rows_stale: int
    n_rows_missing: int
    n_entries: int
    n_bytes: int
    lossy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatus:
    """A root at a glance; sizes in bytes. `n_bytes` is of the runs; each encoding has its own. `remote` is where the cache is,
    if `root` only mirrors it."""

    root: str
    runs: tuple[RunStatus, ...]
    n_vectors: int
    n_bytes: int
    n_bytes_leftover: int
    n_bytes_free: int
    damaged: tuple[str, ...] = ()
    encodings: tuple[EncodingStatus, ...] = ()
    remote: RemoteStatus | None = None


def cache_status(cache: CacheFolder) -> CacheStatus:
    """Read the files of a root; needs no index."""
    runs, damaged = [], [str(error) for error in cache.damaged_documents()]
    for document in cache.documents():
        try:
            status, unreadable = run_status(cache, document)
            runs.append(status)
            damaged += [str(error) for error in unreadable]
        except DamagedError as error:  # it must not hide the others
            damaged.append(str(error))
    encodings, unreadable_encodings = encoding_statuses(cache)
    damaged += [str(error) for error in unreadable_encodings]
    n_vectors = len(list(cache.paths.vectors.glob("*.safetensors"))) if cache.paths.vectors.is_dir() else 0
    return CacheStatus(
        root=str(cache.root),
        runs=tuple(runs),
        n_vectors=n_vectors,
        n_bytes=sum(r.n_bytes for r in runs),
        n_bytes_leftover=sum(item.n_bytes for item in leftovers(cache)),
        n_bytes_free=free_bytes(cache.root),
        damaged=tuple(damaged),
        encodings=encodings,
        remote=None if cache.remote is None else cache.remote.status(),
    )


def encoding_statuses(cache: CacheFolder) -> tuple[tuple[EncodingStatus, ...], list[DamagedError]]:
    """Every encoding of the root, and what is wrong with those that cannot be read."""
    found, damaged = all_encodings(cache.paths)
    return tuple(
        EncodingStatus(
            sae_id=one.document.sae.sae_id,
            sae=one.document.sae.name,
            run_id=one.document.run_id,
            site=one.document.site,
            layer=one.document.layer,
            n_features=one.document.sae.d_sae,
            n_rows=one.n_rows,
            n_rows_stale=sum(record.n_rows for record in one.stale.values()),
            n_rows_missing=max(0, one.n_rows_of_run - one.n_rows - sum(r.n_rows for r in one.stale.values())),
            n_entries=one.n_entries,
            n_bytes=one.n_bytes,
            lossy=one.lossy,
        )
        for one in found
    ), damaged


def run_status(cache: CacheFolder, document: RunDocument) -> tuple[RunStatus, list[DamagedError]]:
    """One run's status from its documents and shard records, and what is wrong with the records that cannot be read."""
    paths = cache.run_paths(document.run_id)
    generation = current_generation(paths)
    records, unreadable = readable_shards(paths, generation)
    reader = cache.source(document.run_id).reader
    status = RunStatus(
        run_id=document.run_id,
        name=document.name,
        model=document.model.name,
        datasets=tuple(d.dataset for d in document.datasets),
        sites=tuple(s.site for s in document.layout.sites),
        n_layers=max(len(s.layers) for s in document.layout.sites),
        dtype=document.layout.dtype,
        codec=reader.codec,
        generation=generation,
        n_samples=sum(r.n_samples for r in records),
        n_rows=sum(r.n_rows for r in records),
        n_shards=len(document.shards),
        n_shards_committed=len(records),
        n_bytes=sum(r.n_bytes for r in records),
        created_at=document.created_at,
        n_shards_damaged=len(unreadable),
        non_finite=sum_non_finite(records),
        codec_error=layer_errors(records, paths.generation(generation)) if reader.lossy else (),
    )
    return status, list(unreadable.values())


def free_bytes(folder: Path) -> int:
    """Free space of the file system that `folder` is on (or will be)."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
