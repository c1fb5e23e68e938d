"""A run's rows as features of an SAE, shard by shard into the cache: bounded memory, safe to kill, never done twice.

All stored rows of the SAE's site and layer are encoded, first positions and special tokens included: which role a row has is
known from the tokens that it is joined with.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from steercache.cache.feature_files import (
    Encoding,
    EncodingDocument,
    FeatureShard,
    begin_encoding,
    encoding_at,
    write_feature_shard,
)
from steercache.cache.feature_rows import EncodedRows
from steercache.cache.handle import CacheFolder
from steercache.cache.lock import hold_lock
from steercache.cache.source import ShardRecords
from steercache.core.activity import announce
from steercache.sae.encode_shard import EncodedLayer, encode_shard
from steercache.sae.encode_workers import HERE, EncodingEngine, encode_elsewhere
from steercache.sae.fits_run import check_fits
from steercache.sae.loaded import LoadedSae
from steercache.sae.sparse import SparseEncoder
from steercache.store.durable import make_folder, settle

OnRows = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What an encoding did: `n_rows_new` of the `n_rows` that have features now were computed, in `seconds`."""

    encoding: Encoding
    n_rows: int
    n_rows_new: int
    n_rows_stale: int
    n_entries: int
    n_bytes: int
    n_non_finite: int
    lossy: bool
    seconds: float

    @property
    def rows(self) -> EncodedRows:
        """The features, to be read."""
        return EncodedRows(self.encoding)


def encode_run(
    cache: CacheFolder,
    sae: LoadedSae,
    run_id: str,
    *,
    allow_foreign: bool = False,
    engine: EncodingEngine = HERE,
    on_rows: OnRows = lambda done, total: None,
) -> Encoded:
    """Encode every committed row of a run that has no features of this SAE yet; what is stale is computed again.

    Killed anywhere, the shards that were committed stay, and the next call goes on to the same bytes. `on_rows(done,
    total)` is called as rows are done. `allow_foreign` is that of `check_fits`, `engine` says which processes compute.

    Raises:
        UsageError: the SAE's activations are not those of the run. BusyError: another process encodes
            this run with this SAE. BudgetError: the disk is full. DamagedError: a file of the run contradicts its record.
    """
    spec = sae.spec
    check_fits(spec, cache, run_id, allow_foreign=allow_foreign)
    assert spec.layer is not None  # or it would not fit
    paths = cache.paths.encoding(spec.sae_id, run_id)
    started = time.monotonic()
    with hold_lock(paths.lock, what=f"the encoding with {spec.name!r}"):
        make_folder(paths.records, paths.acts(0).parent)
        document = EncodingDocument(sae=spec, run_id=run_id, site=spec.site, layer=spec.layer, versions=versions())
        begin_encoding(paths, document)
        settle(paths.document, paths.record(0))
        before = encoding_at(cache.paths, paths)
        job = _Job(cache=cache, sae=sae, encoding=before, on_rows=on_rows)
        job.run(engine)
        after = encoding_at(cache.paths, paths)
    return Encoded(
        encoding=after,
        n_rows=after.n_rows,
        n_rows_new=job.n_new,
        n_rows_stale=sum(record.n_rows for record in before.stale.values()),
        n_entries=after.n_entries,
        n_bytes=after.n_bytes,
        n_non_finite=sum(record.n_non_finite for record in after.fresh.values()),
        lossy=after.lossy,
        seconds=time.monotonic() - started,
    )


def versions() -> dict[str, str]:
    """Versions of the libraries that compute features."""
    return {name: version(name) for name in ("numpy", "sae-lens", "torch")}


class _Job:
    """The shards of one encoding that are still to be done. The caller holds the encoding's lock."""

    def __init__(self, *, cache: CacheFolder, sae: LoadedSae, encoding: Encoding, on_rows: OnRows) -> None:
        self._run = cache.run_paths(encoding.document.run_id)
        self._sae, self._encoding, self._on_rows = sae, encoding, on_rows
        self._layer = EncodedLayer.of(encoding, self._run)
        self._n_done, self._n_total = encoding.n_rows, encoding.n_rows_of_run
        self.n_new = 0
        self._began: float | None = None
        self._first_n: int | None = None

    def run(self, engine: EncodingEngine) -> None:
        records = ShardRecords(self._run, self._encoding.generation)
        pending = [shard_idx for shard_idx in records if shard_idx not in self._encoding.fresh]
        self._on_rows(self._n_done, self._n_total)
        if engine.options.elsewhere:
            encode_elsewhere(self._sae, self._layer, pending, engine, self._commit_and_count)
            return
        encoder = SparseEncoder(self._sae)
        for shard_idx in pending:
            self._commit(encode_shard(self._layer, encoder, records[shard_idx], self._note))

    def _commit(self, record: FeatureShard) -> None:
        write_feature_shard(self._encoding.paths, record)

    def _commit_and_count(self, record: FeatureShard) -> None:
        self._commit(record)
        self.n_new += record.n_rows
        self._on_rows(self._n_done + self.n_new, self._n_total)

    def _note(self, n_rows: int) -> None:
        """Count rows; the second batch says how long the rest should take (the first also warms up)."""
        self.n_new += n_rows
        now = time.monotonic()
        if self._began is None:
            self._began, self._first_n = now, self.n_new
        elif self._first_n is not None:
            per_row_s = (now - self._began) / (self.n_new - self._first_n)
            left = self._n_total - self._n_done - self.n_new
            announce(f"encoding {self._n_total:,} rows", per_row_s * left)
            self._first_n = None
        self._on_rows(self._n_done + self.n_new, self._n_total)
