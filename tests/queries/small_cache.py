"""A real small cache, written by hand: every value of its arrays can be said in one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from steercache.cache.catch_up import catch_up
from steercache.cache.documents import (
    DatasetInputs,
    PlannedShard,
    RunDocument,
    RunModel,
    run_id_of,
    write_run_document,
    write_shard_record,
)
from steercache.cache.handle import CacheFolder, open_cache
from steercache.core.layout import SiteLayout, StoreLayout
from steercache.store.generation import create_generation, set_complete
from steercache.store.shard import ShardWriter
from tests.index.small import Sentence, run_row, write_run

WIDTH, LAYERS = 4, (0, 1, 2)
ROWS_PER_SHARD, CHUNK_ROWS = 64, 16


def value_of(rows: npt.NDArray[Any], layer: int) -> npt.NDArray[np.float32]:
    """The activations of the cache, shape (n, 4): the row, the layer, a product of both, and one."""
    rows_n = np.asarray(rows, dtype=np.float32)
    return np.stack([rows_n, np.full_like(rows_n, layer), rows_n * layer, np.ones_like(rows_n)], axis=1)


def add_run(
    root: Path,
    name: str,
    shards: Sequence[Sequence[Sentence]],
    *,
    created_at: str = "2026-01-02T03:04:05+00:00",
    model: str = "tiny",
    **changes: Any,
) -> str:
    """Write a whole run below `root`, arrays included, and tell the index; returns its id.

    `changes`: `modality`; `n_planned`, more shards than there are; `width`, `dtype` and `values`, in the place of `value_of`.
    """
    identity = {"name": name, "model": model, "created": created_at}
    run_id = run_id_of(identity)
    files = write_run(root, run_row(run_id, name), shards, rows_per_shard=ROWS_PER_SHARD)
    n_planned = changes.get("n_planned", len(shards))
    layout = StoreLayout(
        sites=(SiteLayout(site="resid_post", layers=LAYERS, width=changes.get("width", WIDTH)),),
        dtype=changes.get("dtype", "float32"),
        n_shards=n_planned,
        rows_per_shard=ROWS_PER_SHARD,
        chunk_rows=CHUNK_ROWS,
    )
    datasets = {s.dataset: None for shard in shards for s in shard}
    document = RunDocument(
        run_id=run_id,
        name=name,
        created_at=created_at,
        model=RunModel(
            name=model,
            model_id=model,
            fingerprint=f"{model:f<64}",
            modality=changes.get("modality", "text"),
            dtype="float32",
            hidden_size=changes.get("width", WIDTH),
            n_layers=len(LAYERS),
        ),
        # the labels of small.write_run stand under the run's own id
        datasets=tuple(DatasetInputs(dataset=d, inputs_digest=run_id, first_sample=0, n_samples=0) for d in datasets),
        identity=identity,
        numerics={},
        manifest={"name": name},
        layout=layout,
        shards=tuple(
            PlannedShard(shard_idx=i, first_sample=0, n_samples=0, n_rows=0, n_tokens=0, input_digest="")
            for i in range(n_planned)
        ),
        replayable=True,
    )
    cache = open_cache(root, create=True)
    _write_arrays(cache, document, files.shards, files.tokens, changes.get("values", value_of))
    assert catch_up(cache.paths, wait_s=10) is None
    return run_id


def _write_arrays(
    cache: CacheFolder, document: RunDocument, records: Sequence[Any], tokens: Sequence[Path], values: Any
) -> None:
    paths = cache.run_paths(document.run_id)
    generation = paths.generation("g0001")
    create_generation(generation, document.layout, attributes={"run_id": document.run_id})
    paths.current.write_text("g0001\n")
    write_run_document(paths.document, document)
    paths.shards("g0001").mkdir(parents=True)
    for record, path in zip(records, tokens, strict=True):
        table = pq.read_table(path)
        kept = table.filter(table["row_idx"].is_valid())
        rows = kept["row_idx"].to_numpy()
        writer = ShardWriter(generation, document.layout, record.shard_idx, n_rows=len(rows))
        for layer_pos, layer in enumerate(LAYERS):
            writer.write("resid_post", layer_pos, 0, np.ascontiguousarray(values(rows, layer)))
        columns = {c: kept[c].to_numpy().astype(np.int32) for c in ("sample_idx", "position", "token_id")}
        arrays = writer.finish(**columns)
        changed = {f: getattr(record, f) for f in record.__slots__} | {"files": arrays}
        write_shard_record(paths.shard("g0001", record.shard_idx), type(record)(**changed))
    set_complete(generation, True)
