"""A pass over the data that fixes a run's shape before the first forward: what will be written, and what it will cost."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from steercache.cache.documents import (
    DatasetInputs,
    ModelSource,
    PlannedShard,
    RunDocument,
    installed_versions,
    run_id_of,
    run_model,
)
from steercache.cache.handle import CacheFolder
from steercache.cache.rebuild import catch_up_or_rebuild
from steercache.core.errors import ManifestError, UsageError
from steercache.core.examples import EncodedSample
from steercache.core.ids import digest
from steercache.core.layout import ITEM_BYTES, DType, SiteLayout, StoreLayout
from steercache.manifests.trace import TraceManifest
from steercache.models.heads import heads_of
from steercache.models.spec import ModelSpec, TokenizerBundle
from steercache.runs.inputs import InputSample, NamedDataset, iter_inputs
from steercache.runs.labels import LabelWriter, runs_over
from steercache.runs.packing import choose_rows_per_shard, digest_of_inputs, pack_shards
from steercache.runs.rows import depends_on_labels, kept_rows
from steercache.runs.seen import InputCounts
from steercache.runs.sharing import SharedPacking, check_sharing
from steercache.store.geometry import shard_geometry
from steercache.trace.encode import TEMPLATE
from steercache.trace.tower import tower_width

COORDINATE_BYTES = 12  # sample, position and token id of a row

Progress = Callable[[str, int, int | None], None]  # stage, done, total


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceJob:
    """A trace manifest with everything that it names, found and opened."""

    manifest: TraceManifest
    datasets: tuple[NamedDataset, ...]
    bundle: TokenizerBundle
    numerics: dict[str, Any]
    model_source: ModelSource | None = None

    @property
    def spec(self) -> ModelSpec:
        return self.bundle.spec

    @property
    def patches(self) -> bool:
        """Whether the rows are patches of the vision tower rather than tokens."""
        return "vision_out" in self.manifest.sites


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a build will do. `n_bytes` is what arrays and coordinates come to on the disk; tables add a few per cent."""

    document: RunDocument
    longest_sample: int
    mended_labels_in: tuple[str, ...] = ()
    most_rows: int = 0  # rows that the largest sample keeps

    @property
    def n_bytes(self) -> int:
        return self.bytes_of(self.document.shards)

    def bytes_of(self, shards: Iterable[PlannedShard]) -> int:
        """Bytes of the shards' files, tables aside: whole chunks with their index, and coordinates of every row slot."""
        return sum(bytes_of_shard(self.document.layout, shard.n_rows) for shard in shards)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row over all sites and layers, with its coordinates."""
        return self.document.layout.row_bytes + COORDINATE_BYTES

    @property
    def n_tokens(self) -> int:
        return sum(s.n_tokens for s in self.document.shards)


def bytes_of_shard(layout: StoreLayout, n_rows: int) -> int:
    """Bytes of the arrays and coordinates of a shard with `n_rows` used rows: whole chunks with their index, every slot."""
    arrays = sum(shard_geometry(layout, site, n_rows).file_bytes for site in layout.sites)
    return layout.rows_per_shard * COORDINATE_BYTES + arrays


def plan_run(job: TraceJob, *, cache: CacheFolder | None = None, progress: Progress = lambda *_: None) -> Plan:
    """Read every input once; with `cache`, labels are kept there and joined into runs that have these inputs already.

    Raises:
        ManifestError: samples that cannot be traced as labelled, all of them named; or no samples at all.
        UsageError: layers or sites that the model does not have, or rows that cannot be shared.
    """
    manifest = job.manifest
    sites = sites_of(job)
    packing = _start_sharing(job, sites)
    seen = InputCounts()
    rules: dict[str, Any] = {}
    anchors: list[object] = []
    starts: dict[str, int] = {}
    with ExitStack() as stack:
        labels = {d.name: stack.enter_context(LabelWriter(d.name)) for d in job.datasets}
        for sample in _inputs(job):
            starts.setdefault(sample.dataset, sample.sample_idx)
            kept = kept_rows(sample.units, manifest.rows, sink=not job.patches)
            seen.ids += bytes.fromhex(sample.encoded.sample_id)
            seen.rows.append(kept.n_rows)
            seen.tokens.append(sample.units.n_tokens)
            rules |= _template_rules(sample.encoded)
            if packing is not None:
                packing.add(sample.encoded, kept.positions)
            labels[sample.dataset].add(sample)
            if depends_on_labels(manifest.rows):
                anchors.append(_roles_of(sample))
            if len(seen.rows) % 256 == 0:
                progress("reading inputs", len(seen.rows), None)
        if not sum(seen.rows):
            raise ManifestError(
                "there is no row to keep: no samples, or a row policy that fits no token", place=manifest.name
            )
        progress("reading inputs", len(seen.rows), len(seen.rows))
        inputs = _inputs_by_dataset(starts, seen)
        rows_per_shard = slots_of_shards(job, sites, max(seen.rows), mean=sum(seen.rows) / len(seen.rows))
        if packing is not None and packing.rows_per_shard != rows_per_shard:
            packing = _pack_again(job, rows_per_shard)
        document = _document(
            job,
            seen,
            inputs,
            sites=sites,
            rows_per_shard=rows_per_shard,
            packing=packing,
            label_digest=digest(anchors) if anchors else None,
            template=rules,
        )
        mended = _keep_labels(cache, labels, inputs) if cache else ()
    return Plan(document=document, longest_sample=max(seen.tokens), mended_labels_in=mended, most_rows=max(seen.rows))


def _template_rules(encoded: EncodedSample) -> dict[str, Any]:
    """What a chat template adds to a run's identity: that its tokens have a kind, and its date where it looked at the clock."""
    rules: dict[str, Any] = {"kind": True} if (encoded.kind == TEMPLATE).any() else {}
    return rules | ({"date": encoded.template_date} if encoded.template_date else {})


def _roles_of(sample: InputSample) -> list[object]:
    """What the labels of a sample say about its tokens: where its anchors are, and whether it has controls without any."""
    encoded = sample.encoded
    without = [True] if encoded.is_control.any() and not encoded.anchors else []
    return [sample.sample_idx, np.flatnonzero(encoded.is_anchor).tolist(), *without]


def _inputs(job: TraceJob) -> Iterator[InputSample]:
    return iter_inputs(job.datasets, job.bundle, max_tokens=job.manifest.max_tokens, patches=job.patches)


def _start_sharing(job: TraceJob, sites: tuple[SiteLayout, ...]) -> SharedPacking | None:
    """What packs samples that share rows, with the shards that the manifest comes to unless its samples are long, or short."""
    if not job.manifest.share_prefix:
        return None
    check_sharing(job.bundle, place=f"trace {job.manifest.name}: share_prefix")
    return SharedPacking(slots_of_shards(job, sites, 1))


def _pack_again(job: TraceJob, rows_per_shard: int) -> SharedPacking:
    """The inputs once more: the samples made shards larger or smaller than was known when they were packed."""
    packing = SharedPacking(rows_per_shard)
    for sample in _inputs(job):
        packing.add(sample.encoded, kept_rows(sample.units, job.manifest.rows).positions)
    return packing


def _keep_labels(
    cache: CacheFolder, labels: dict[str, LabelWriter], inputs: Sequence[DatasetInputs]
) -> tuple[str, ...]:
    mended: list[str] = []
    for part in inputs:
        if labels[part.dataset].keep(cache, part.inputs_digest):
            mended += runs_over(cache, part.dataset, part.inputs_digest)
    if mended:  # labels of runs to come are joined with them
        catch_up_or_rebuild(cache)
    return tuple(dict.fromkeys(mended))


def _inputs_by_dataset(starts: dict[str, int], seen: InputCounts) -> tuple[DatasetInputs, ...]:
    ids = seen.hex_ids()
    ends = [*list(starts.values())[1:], len(ids)]
    return tuple(
        DatasetInputs(
            dataset=name, inputs_digest=digest_of_inputs(ids[first:end]), first_sample=first, n_samples=end - first
        )
        for (name, first), end in zip(starts.items(), ends, strict=True)
    )


def slots_of_shards(
    job: TraceJob, sites: tuple[SiteLayout, ...], longest_sample: int, *, mean: float = math.inf
) -> int:
    """Row slots of a shard; the largest sample keeps `longest_sample` rows, one on average `mean`.

    Raises:
        ManifestError: the manifest's own are too few.
    """
    manifest = job.manifest
    row_bytes = sum(len(s.layers) * s.width for s in sites) * ITEM_BYTES[stored_dtype(job)]
    found = manifest.rows_per_shard or choose_rows_per_shard(
        row_bytes,
        shard_mib=manifest.shard_mib,
        chunk_rows=manifest.chunk_rows,
        longest_sample=longest_sample,
        rows_per_sample=mean,
    )
    if longest_sample > found:
        raise ManifestError(
            f"the longest sample keeps {longest_sample} rows, a shard has {found}",
            place=f"trace {manifest.name}: rows_per_shard",
            hint="leave rows_per_shard out, or make it larger",
        )
    return found


def stored_dtype(job: TraceJob) -> DType:
    """Dtype on disk; a mean is no value that the model computed, and is not rounded to the model's dtype unless asked."""
    if job.manifest.dtype != "auto":
        return job.manifest.dtype
    return "float32" if job.manifest.rows.policy == "pooled" else job.spec.dtype


def _document(
    job: TraceJob,
    seen: InputCounts,
    inputs: tuple[DatasetInputs, ...],
    *,
    sites: tuple[SiteLayout, ...],
    rows_per_shard: int,
    packing: SharedPacking | None,
    label_digest: str | None,
    template: dict[str, Any],
) -> RunDocument:
    manifest, spec, dtype = job.manifest, job.spec, stored_dtype(job)
    rows = np.frombuffer(seen.rows, dtype=np.int64)
    tokens = np.frombuffer(seen.tokens, dtype=np.int64)
    ids = seen.hex_ids()
    shards = (
        pack_shards(rows, tokens, ids, rows_per_shard=rows_per_shard)
        if packing is None
        else packing.shards(tokens, ids)
    )
    layout = StoreLayout(
        sites=sites, dtype=dtype, n_shards=len(shards), rows_per_shard=rows_per_shard, chunk_rows=manifest.chunk_rows
    )
    replayable = manifest.replayable and manifest.rows.policy == "all" and packing is None and not job.patches
    identity = {
        "model": {"fingerprint": spec.fingerprint, "dtype": spec.dtype, "tokenizer": spec.tokenizer_digest},
        "inputs": [{"dataset": part.dataset, "digest": part.inputs_digest} for part in inputs],
        "kept": {
            "sites": [{"site": s.site, "layers": list(s.layers), "width": s.width} for s in sites],
            "rows": manifest.rows.model_dump(mode="json"),
            "labels": label_digest,
            "dtype": dtype,
            "chunk_rows": manifest.chunk_rows,
            "rows_per_shard": rows_per_shard,
            "replayable": replayable,
            **({"share_prefix": True} if packing is not None else {}),  # runs without it keep the ids they had
            **({"row_kind": "pooled"} if manifest.rows.policy == "pooled" else {}),
        },
        **({"template": template} if template else {}),  # likewise runs without chat templates
    }
    return RunDocument(
        run_id=run_id_of(identity),
        name=manifest.name,
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        model=run_model(job.bundle),
        datasets=inputs,
        identity=identity,
        numerics=job.numerics,
        manifest=manifest.model_dump(mode="json"),
        layout=layout,
        shards=shards,
        replayable=replayable,
        versions=installed_versions(),
        model_source=job.model_source,
    )


def sites_of(job: TraceJob) -> tuple[SiteLayout, ...]:
    """The arrays of the run. Raises UsageError for layers or sites that the model does not have."""
    return tuple(_site(name, job) for name in job.manifest.sites)


def _site(name: Any, job: TraceJob) -> SiteLayout:
    spec = job.spec
    if name in ("connector_out", "vision_out") and spec.vision_size is None:
        raise UsageError(f"{spec.name} reads no pictures: it has no {name}", place=f"trace {job.manifest.name}: sites")
    if name == "vision_out":
        return SiteLayout(site=name, layers=(-1,), width=tower_width(job.bundle.config, spec.vision_size or 0))
    if name == "connector_out":
        return SiteLayout(site=name, layers=(-1,), width=spec.hidden_size)
    width = heads_of(job.bundle.config).joined if name == "head_out" else spec.hidden_size
    return SiteLayout(site=name, layers=job.manifest.resolve_layers(spec.n_layers), width=width)
