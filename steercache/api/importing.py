"""Taking in activations that another engine captured: what `Cache.import_activations` does."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from steercache.api.progress import ProgressLike, reporting
from steercache.api.runs import Run, run_of
from steercache.api.tracing import TraceLike, resolved_trace
from steercache.cache.documents import ModelSource
from steercache.cache.handle import CacheFolder
from steercache.cells.model import find_model
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.layout import DType
from steercache.exchange.activations.captured import Captured, CapturedSample, LastEntry, Numbering, Request
from steercache.exchange.activations.checks import Duplicates, checked, refuse
from steercache.exchange.activations.compare import VerifiedEntry, verify_entries
from steercache.exchange.activations.engine import write_import
from steercache.exchange.activations.entries import EntryMap, EntryRequest, map_entries
from steercache.exchange.activations.inputs import PairedSample, as_inputs, pair_with_dataset
from steercache.exchange.activations.plan import ImportedModel, plan_import
from steercache.exchange.activations.readers import READERS
from steercache.exchange.activations.requests import read_requests
from steercache.manifests.trace import RowPolicy
from steercache.models.spec import LoadedModel
from steercache.runs.inputs import iter_inputs
from steercache.runs.job import PreparedTrace, prepare_trace

Format = Literal["vllm", "speculators", "vllm-lens", "sae-lens", "torch", "npy", "safetensors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """The options of one import of captured activations, as `Cache.import_activations` explains them."""

    format: str
    trace: TraceLike | None = None
    model: str | None = None
    n_layers: int | None = None
    requests: str | Path | None = None
    entries: Sequence[int] | None = None
    numbering: Numbering | None = None
    last: LastEntry | None = None
    layers: Sequence[int] | None = None
    rows: str | None = None
    dtype: DType | None = None
    name: str | None = None
    leave_out: Sequence[str] = ()
    duplicates: Duplicates = "refuse"
    allow_non_finite: bool = False
    embedding: bool = False
    verify: int = 0
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """The model and inputs that the samples are taken to be of."""

    model: ImportedModel
    rows: RowPolicy
    load: Callable[[], LoadedModel] | None = field(default=None, repr=False)
    prepared: PreparedTrace | None = field(default=None, repr=False)


def import_activations(
    cache: CacheFolder,
    source: Path,
    options: ImportOptions,
    *,
    progress: ProgressLike = None,
    on_note: Callable[[str], None] | None = None,
) -> Run:
    """Check and take in what `source` holds; see `Cache.import_activations`."""
    if options.format not in READERS:
        raise UsageError(f"unknown format {options.format!r}", hint=f"one of {', '.join(READERS)}")
    if not source.exists():
        raise NotFoundError("there is nothing to import", place=str(source), hint="the folder that the engine wrote")
    notes: list[str] = []

    def remark(sentence: str) -> None:
        notes.append(sentence)
        if on_note is not None:
            on_note(sentence)

    requests = {} if options.requests is None else read_requests(Path(options.requests))
    captured = READERS[options.format](source, requests)
    target = _target(cache, options, captured)
    spec = None if target.model.bundle is None else target.model.bundle.spec
    samples = checked(
        captured,
        requests,
        vocab_size=None if spec is None else spec.vocab_size,
        width=None if spec is None else spec.hidden_size,
        leave_out=options.leave_out,
        duplicates="first" if target.prepared is not None and options.duplicates == "keep" else options.duplicates,
        any_dtype=options.dtype is not None,
        place=str(source),
    )
    paired = _paired(samples, target, options, requests, source)
    entries, verified = _entries(captured, samples, paired, target, options, source)
    for sentence in _remarks(entries, verified, options, dtype=samples[0].dtype, target=target):
        remark(sentence)
    manifest = None if target.prepared is None else target.prepared.job.manifest
    plan = plan_import(
        paired,
        target.model,
        entries.only(_layers(options, target)),
        name=_name(options, target, source),
        source_format=options.format,
        rows=target.rows,
        dtype=options.dtype,
        embedding=options.embedding,
        manifest=None if manifest is None else manifest.model_dump(mode="json"),
    )
    with reporting(progress) as show:
        done = 0

        def count(n_rows: int) -> None:
            nonlocal done
            done += n_rows
            show(f"importing {plan.document.name}", done, plan.document.n_rows)

        outcome = write_import(cache, plan, allow_non_finite=options.allow_non_finite, on_rows=count)
    return run_of(
        plan.document,
        n_bytes=outcome.n_bytes,
        n_shards_built=outcome.n_shards_written,
        n_shards_kept=outcome.n_shards_kept,
        seconds=outcome.seconds,
        index_held_by=outcome.index_held_by,
        notes=tuple(notes),
    )


def _target(cache: CacheFolder, options: ImportOptions, captured: Captured) -> _Target:
    """The model by a trace's manifest, by its own name, or by what the caller says about it."""
    rows = RowPolicy(policy=options.rows or "all")  # type: ignore[arg-type]
    if options.trace is not None:
        if options.model is not None or options.n_layers is not None or options.rows is not None:
            raise UsageError(
                "the trace names its model and its rows", hint="leave model, number of layers and rows out"
            )
        resolved = resolved_trace(options.trace, model=None)
        prepared = prepare_trace(resolved, cache_root=cache.root, device=options.device)
        job = prepared.job
        if set(job.manifest.sites) != {"resid_post"} or job.manifest.share_prefix:
            raise UsageError(
                "captured states are outputs of blocks: the trace has other sites, or shares rows",
                place=job.manifest.name,
                hint="a trace with `sites: [resid_post]` and without share_prefix",
            )
        bundle = job.bundle
        model = ImportedModel(
            name=bundle.spec.name,
            n_layers=bundle.spec.n_layers,
            width=bundle.spec.hidden_size,
            bundle=bundle,
            source=job.model_source,
        )
        return _Target(model=model, rows=job.manifest.rows, load=prepared.load, prepared=prepared)
    if options.model is None:
        raise UsageError(
            "whose activations these are is not said",
            hint="name the trace whose data set was sent to the engine, or the model; of a model that is not at hand, its name"
            " and its number of blocks",
        )
    if options.n_layers is not None:
        width = captured.samples[0].width if captured.samples else 0
        return _Target(model=ImportedModel(name=options.model, n_layers=options.n_layers, width=width), rows=rows)
    found = find_model(options.model, cache.root)
    bundle = found.bundle(cache.root)
    model = ImportedModel(
        name=bundle.spec.name,
        n_layers=bundle.spec.n_layers,
        width=bundle.spec.hidden_size,
        bundle=bundle,
        source=ModelSource(manifest=found.manifest.model_dump(mode="json"), folder=str(found.base_dir.absolute())),
    )
    return _Target(model=model, rows=rows, load=lambda: found.load(cache.root, device=options.device))


def _paired(
    samples: Sequence[CapturedSample],
    target: _Target,
    options: ImportOptions,
    requests: dict[str, Request],
    source: Path,
) -> list[PairedSample]:
    if target.prepared is None:
        return as_inputs(samples, dataset=_name(options, target, source), bundle=target.model.bundle)
    job = target.prepared.job
    inputs = iter_inputs(job.datasets, job.bundle, max_tokens=job.manifest.max_tokens)
    paired, problems = pair_with_dataset(samples, inputs)
    out = {*options.leave_out}
    left = [p for p in problems if p.loc not in out]
    refuse(left, n=len(paired) + len(problems), place=str(source))
    return paired


def _entries(
    captured: Captured,
    samples: Sequence[CapturedSample],
    paired: Sequence[PairedSample],
    target: _Target,
    options: ImportOptions,
    source: Path,
) -> tuple[EntryMap, tuple[VerifiedEntry, ...]]:
    """The layer of every entry: from the options, else from the format; with `verify`, from the model's own values.

    Raises:
        UsageError: neither says it, they contradict each other or the values, or there is no model to verify with.
    """
    place, n_layers = str(source), target.model.n_layers
    of = Captured(
        format=captured.format,
        samples=tuple(samples),
        numbering=captured.numbering,
        last=captured.last,
        entries=captured.entries,
    )
    entries = None if options.entries is None else tuple(options.entries)
    said = EntryRequest(entries=entries, numbering=options.numbering, last=options.last)
    if not options.verify:
        return map_entries(of, said, n_layers=n_layers, place=place), ()
    if target.load is None:
        raise UsageError(
            "nothing can be recomputed: the model is not at hand",
            place=place,
            hint="name a model that is on this machine",
        )
    return verify_entries(
        target.load(), paired, options.verify, declared=_declared(of, said, n_layers, place), place=place
    )


def _declared(captured: Captured, said: EntryRequest, n_layers: int, place: str) -> list[EntryMap]:
    """The maps of entries to layers that the options and the format allow; an empty list where they say too little."""
    lasts: Iterable[LastEntry] = ("block", "norm") if said.last is None and captured.last is None else (None,)  # type: ignore[assignment]
    found = []
    for last in lasts:
        asked = EntryRequest(entries=said.entries, numbering=said.numbering, last=last or said.last)
        try:
            found.append(map_entries(captured, asked, n_layers=n_layers, place=place))
        except UsageError:
            if said.entries is not None and (said.numbering or captured.numbering) is not None:
                raise
    return found


def _layers(options: ImportOptions, target: _Target) -> Sequence[int] | None:
    if options.layers is not None or target.prepared is None:
        return options.layers
    manifest = target.prepared.job.manifest
    return None if manifest.layers == "all" else manifest.resolve_layers(target.model.n_layers)


def _remarks(
    entries: EntryMap, verified: Sequence[VerifiedEntry], options: ImportOptions, *, dtype: DType, target: _Target
) -> list[str]:
    said = [
        f"entry {v.entry} is the {v.what} by its values: largest difference {v.largest:.3g}, median {v.relative:.2%} of the"
        f" row's norm (next best layer {v.runner_up:.0%})"
        for v in verified
    ]
    if entries.norm is not None:
        said.append(f"entry {entries.norm} is behind the final norm, no output of a block: left out")
    if entries.embedding is not None and not options.embedding:
        said.append(f"entry {entries.embedding} is the embedding: left out")
    bundle = target.model.bundle
    if bundle is not None and bundle.spec.dtype != dtype and options.dtype is None:
        said.append(f"the values are {dtype}, {bundle.spec.name} computes in {bundle.spec.dtype} here")
    return said


def _name(options: ImportOptions, target: _Target, source: Path) -> str:
    if options.name is not None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", options.name):
            raise UsageError(
                f"{options.name!r} is no name for a run", hint="lower-case letters, digits, `.`, `_` and `-`, up to 80"
            )
        return options.name
    if target.prepared is not None:
        return f"{target.prepared.job.manifest.name}-{options.format}"[:80]
    return re.sub(r"[^a-z0-9._-]+", "-", source.absolute().stem.lower()).strip("-._")[:80] or options.format
