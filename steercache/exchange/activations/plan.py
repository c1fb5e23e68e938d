"""What an import will write: its rows in shards, and its identity.

The identity has the model, the samples, what is kept, how the values were captured, and a digest of the files; so that two
captures of the same prompts are two runs, and an import that was killed goes on with the same files only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

import numpy as np

from steercache.cache.documents import (
    DatasetInputs,
    ModelSource,
    RunDocument,
    RunModel,
    installed_versions,
    run_id_of,
    run_model,
)
from steercache.core.errors import UsageError
from steercache.core.ids import digest, digest_bytes
from steercache.core.layout import ITEM_BYTES, DType, SiteLayout, StoreLayout
from steercache.exchange.activations.captured import CapturedSample
from steercache.exchange.activations.entries import EntryMap
from steercache.exchange.activations.inputs import PairedSample
from steercache.manifests.trace import RowPolicy
from steercache.models.spec import TokenizerBundle
from steercache.runs.packing import choose_rows_per_shard, digest_of_inputs, pack_shards
from steercache.runs.rows import KeptRows, depends_on_labels, kept_rows

CHUNK_ROWS: Final = 256
SHARD_MIB: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """The model that was captured: one of ours (`bundle`), or what is known of one that is not at hand."""

    name: str
    n_layers: int
    width: int
    bundle: TokenizerBundle | None = field(default=None, repr=False)
    source: ModelSource | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportPlan:
    """An import before its first byte: `samples` with the rows that each keeps, in the order of the run."""

    document: RunDocument
    samples: tuple[PairedSample, ...] = field(repr=False)
    kept: tuple[KeptRows, ...] = field(repr=False)
    entries: EntryMap
    tokenizer: Any = field(default=None, repr=False)

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows."""
        return self.document.n_rows * self.document.layout.row_bytes


def plan_import(
    paired: Sequence[PairedSample],
    model: ImportedModel,
    entries: EntryMap,
    *,
    name: str,
    source_format: str,
    rows: RowPolicy,
    dtype: DType | None = None,
    embedding: bool = False,
    manifest: Mapping[str, Any] | None = None,
    shard_mib: int = SHARD_MIB,
    chunk_rows: int = CHUNK_ROWS,
) -> ImportPlan:
    """The run that these samples become. Raises UsageError when there is no row, or no layer, to keep."""
    kept = tuple(kept_rows(one.input.units, rows) for one in paired)
    counts = np.array([k.n_rows for k in kept], dtype=np.int64)
    if not counts.sum():
        raise UsageError("there is no row to keep: the row policy fits no token", place=name)
    captured = [one.captured for one in paired]
    sites = _sites(entries, model, embedding=embedding, name=name)
    stored = dtype or ("float32" if rows.policy == "pooled" else captured[0].dtype)
    row_bytes = sum(len(s.layers) * s.width for s in sites) * ITEM_BYTES[stored]
    rows_per_shard = choose_rows_per_shard(
        row_bytes,
        shard_mib=shard_mib,
        chunk_rows=chunk_rows,
        longest_sample=int(counts.max()),
        rows_per_sample=float(counts.mean()),
    )
    ids = [one.input.encoded.sample_id for one in paired]
    tokens = np.array([one.input.units.n_tokens for one in paired], dtype=np.int64)
    shards = pack_shards(counts, tokens, ids, rows_per_shard=rows_per_shard)
    layout = StoreLayout(
        sites=sites, dtype=stored, n_shards=len(shards), rows_per_shard=rows_per_shard, chunk_rows=chunk_rows
    )
    inputs = _inputs(paired, ids)
    imported = {
        "format": source_format,
        "entries": {str(at): what for at, what in entries.named().items()},
        "source": _digest(captured),
    }
    of = run_model(model.bundle) if model.bundle is not None else _unknown(model, stored)
    anchors = [np.flatnonzero(one.input.encoded.is_anchor).tolist() for one in paired]
    tokenizer = None if model.bundle is None else model.bundle.spec.tokenizer_digest
    identity: dict[str, Any] = {
        "model": {"fingerprint": of.fingerprint, "dtype": of.dtype, "tokenizer": tokenizer},
        "inputs": [{"dataset": part.dataset, "digest": part.inputs_digest} for part in inputs],
        "kept": {
            "sites": [{"site": s.site, "layers": list(s.layers), "width": s.width} for s in sites],
            "rows": rows.model_dump(mode="json"),
            "labels": digest(anchors) if depends_on_labels(rows) else None,
            "dtype": stored,
            "chunk_rows": chunk_rows,
            "rows_per_shard": rows_per_shard,
            "replayable": False,
            **({"row_kind": "pooled"} if rows.policy == "pooled" else {}),
        },
        "imported": imported,
    }
    own = {"kind": "import", "name": name, "model": of.name, "datasets": [d.dataset for d in inputs]}
    document = RunDocument(
        run_id=run_id_of(identity),
        name=name,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        model=of,
        datasets=inputs,
        identity=identity,
        numerics={"imported": source_format},
        manifest={**(manifest or own), "rows": rows.model_dump(mode="json"), "imported": imported},
        layout=layout,
        shards=shards,
        replayable=False,
        versions=installed_versions(),
        model_source=model.source,
    )
    tokenizer_of = None if model.bundle is None else model.bundle.tokenizer
    return ImportPlan(document=document, samples=tuple(paired), kept=kept, entries=entries, tokenizer=tokenizer_of)


def _sites(entries: EntryMap, model: ImportedModel, *, embedding: bool, name: str) -> tuple[SiteLayout, ...]:
    sites = []
    if entries.layers:
        sites.append(SiteLayout(site="resid_post", layers=entries.layers, width=model.width))
    if embedding and entries.embedding is not None:
        sites.append(SiteLayout(site="resid_pre", layers=(0,), width=model.width))
    if not sites:
        has = ", ".join(entries.named().values())
        raise UsageError(
            f"no entry is the output of a block: {has}", place=name, hint="keep the embedding, or other layers"
        )
    return tuple(sites)


def _inputs(paired: Sequence[PairedSample], ids: Sequence[str]) -> tuple[DatasetInputs, ...]:
    """The data sets in their order; samples of one stand together."""
    found, first = [], 0
    for dataset, group in groupby(paired, key=lambda one: one.input.dataset):
        n = len(list(group))
        part = digest_of_inputs(ids[first : first + n])
        found.append(DatasetInputs(dataset=dataset, inputs_digest=part, first_sample=first, n_samples=n))
        first += n
    return tuple(found)


def _digest(samples: Sequence[CapturedSample]) -> str:
    """Over shapes, token ids and some bytes of the values of every sample."""
    parts = []
    for s in samples:
        shape = f"{s.key} {s.n_rows} {s.n_entries} {s.width} {s.dtype}".encode()
        parts += [shape, b"" if s.token_ids is None else s.token_ids.tobytes(), s.probe]
    return digest_bytes(*parts)


def _unknown(model: ImportedModel, dtype: DType) -> RunModel:
    """A model by its name alone: its weights were never seen, so its fingerprint says only that."""
    return RunModel(
        name=model.name,
        model_id=model.name,
        fingerprint=digest({"imported model": model.name, "layers": model.n_layers, "width": model.width}),
        modality="text",
        dtype=dtype,
        hidden_size=model.width,
        n_layers=model.n_layers,
    )
