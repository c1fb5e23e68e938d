"""Part of a run as a run of another cache: some layers, some rows; samples and tokens stay whole, so that coordinates do."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from steercache.cache.commit import RunWriter, ShardTables, begin_run
from steercache.cache.documents import PlannedShard, RunDocument, installed_versions, run_id_of
from steercache.cache.handle import CacheFolder
from steercache.cache.source import RunSource
from steercache.core.errors import UsageError
from steercache.core.ids import digest_bytes
from steercache.core.layout import SiteLayout, StoreLayout
from steercache.objects.mirrors import refuse_remote
from steercache.store.durable import make_folder, write_file_atomically

Rows = npt.NDArray[np.int64]
MOST_ROWS = 4096  # read and written at once


def copy_part(
    source: RunSource,
    cache: CacheFolder,
    target: CacheFolder,
    *,
    layers: Sequence[int] | None,
    rows: Rows | None,
    on_rows: Callable[[int], None] = lambda n: None,
) -> RunDocument:
    """Write some layers and some rows (ascending) of a run into another cache; the same call goes on after a kill.

    The part is a run of its own whose identity names the run that it is a part of. Its samples have the ids they had, and all
    its tokens are there; those whose rows were left out have none, as under a row policy.

    Raises:
        UsageError: nothing is left out, the source is lossy or not complete, or a layer is not there.
    """
    document = source.document
    if target.root.absolute() == cache.root.absolute():
        raise UsageError("a part goes into another cache", place=str(target.root), hint="the folder of another cache")
    refuse_remote(target.root, "writing a part", hint="write it into a folder, and push it")
    if source.lossy:
        raise UsageError(
            f"the run {document.name!r} is lossy: a part of it would not say so",
            hint="build the run again, or copy it whole",
        )
    if len(source.reader.shard_idxs) < len(document.shards):
        raise UsageError(f"the run {document.name!r} is not complete", hint="build it to its end first")
    sites = tuple(_site(site, layers, document) for site in document.layout.sites)
    if sites == document.layout.sites and rows is None:
        raise UsageError("that is the whole run", hint="copy its folder, or push it")
    part = _document(document, sites, rows)
    _copy_labels(document, cache, target)
    with begin_run(target, part) as run:
        for planned in run.pending():
            on_rows(_copy_shard(run, planned, source, cache, rows))
        run.finish()
    return run.document


def _site(site: SiteLayout, layers: Sequence[int] | None, document: RunDocument) -> SiteLayout:
    if layers is None or site.layers == (-1,):
        return site
    if unknown := sorted({*layers} - {*site.layers}):
        raise UsageError(
            f"layers {', '.join(map(str, unknown))} are not in the run {document.name!r}",
            hint=f"it has {', '.join(map(str, site.layers))} at {site.site}",
        )
    return replace(site, layers=tuple(sorted({*layers})))


def _document(document: RunDocument, sites: tuple[SiteLayout, ...], rows: Rows | None) -> RunDocument:
    old = document.layout
    shards, rows_per_shard = document.shards, old.rows_per_shard
    if rows is not None:
        counts = np.bincount(rows // old.rows_per_shard, minlength=len(shards))
        shards = tuple(replace(s, n_rows=int(n)) for s, n in zip(shards, counts, strict=True))
        rows_per_shard = max(-(-int(counts.max()) // old.chunk_rows), 1) * old.chunk_rows
    layout = StoreLayout(
        sites=sites, dtype=old.dtype, n_shards=old.n_shards, rows_per_shard=rows_per_shard, chunk_rows=old.chunk_rows
    )
    replayable = document.replayable and rows is None
    kept = {
        **document.identity.get("kept", {}),
        "sites": [{"site": s.site, "layers": list(s.layers), "width": s.width} for s in sites],
        "rows_per_shard": rows_per_shard,
        "replayable": replayable,
    }
    of = {"run": document.run_id, "rows": None if rows is None else digest_bytes(rows.astype("<i8").tobytes())}
    identity = {**document.identity, "kept": kept, "part_of": of}
    return replace(
        document,
        run_id=run_id_of(identity),
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        identity=identity,
        manifest={**document.manifest, "part_of": of},
        layout=layout,
        shards=shards,
        replayable=replayable,
        parent_run_id=document.run_id,
        versions=installed_versions(),
    )


def _copy_labels(document: RunDocument, cache: CacheFolder, target: CacheFolder) -> None:
    for part in document.datasets:
        path = cache.paths.annotation(part.dataset, part.inputs_digest)
        copy = target.paths.annotation(part.dataset, part.inputs_digest)
        if path.exists() and not copy.exists():
            make_folder(copy.parent)
            write_file_atomically(copy, path.read_bytes())


def _copy_shard(run: RunWriter, planned: PlannedShard, source: RunSource, cache: CacheFolder, rows: Rows | None) -> int:
    paths, old = cache.run_paths(source.run_id), source.document.layout
    tokens = pq.read_table(paths.tokens(planned.shard_idx))
    samples = pq.read_table(paths.samples(planned.shard_idx))
    first = planned.shard_idx * old.rows_per_shard
    there = np.arange(first, first + source.reader.n_rows(planned.shard_idx))
    chosen = there if rows is None else rows[(rows >= first) & (rows < first + old.rows_per_shard)]
    writer = run.open_shard(planned)
    try:
        for site in run.document.layout.sites:
            for layer_pos, layer in enumerate(site.layers):
                for slot in range(0, len(chosen), MOST_ROWS):
                    block = source.gather(site.site, layer, chosen[slot : slot + MOST_ROWS])
                    writer.write(site.site, layer_pos, slot, np.ascontiguousarray(block))
    except BaseException:
        writer.abort()
        raise
    run.commit_files(planned, writer, _tables(tokens, samples, chosen, planned, run.document.layout))
    run.tell_index(planned.shard_idx)
    return len(chosen)


def _tables(
    tokens: pa.Table, samples: pa.Table, chosen: Rows, planned: PlannedShard, layout: StoreLayout
) -> ShardTables:
    """The shard's tables with the new places of the rows; a token without one has none."""
    row_idx: Any = tokens["row_idx"].to_numpy(zero_copy_only=False)
    old = np.where(np.isnan(row_idx.astype(np.float64)), -1, row_idx).astype(np.int64)
    at = np.searchsorted(chosen, old).clip(0, max(len(chosen) - 1, 0))
    has = (old >= 0) & (chosen[at] == old if len(chosen) else False)
    new = np.where(has, planned.shard_idx * layout.rows_per_shard + at, -1)
    column = tokens.schema.get_field_index("row_idx")
    moved = tokens.set_column(column, tokens.schema.field("row_idx"), pa.array(new, mask=new < 0))
    _, first = np.unique(at[has], return_index=True)  # rows that tokens share: the first of them
    owners = np.flatnonzero(has)[first]
    coordinate = {n: tokens[n].to_numpy().astype(np.int32)[owners] for n in ("sample_idx", "position", "token_id")}
    return ShardTables(tokens=moved, samples=samples, **coordinate)
