"""From the name of a trace manifest to everything a build needs."""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from steercache.cache.documents import ModelSource
from steercache.data import open_dataset
from steercache.manifests.resolve import ResolvedTrace, resolve_trace
from steercache.models.load import load_bundle, load_model, resolve_device
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.runs.inputs import NamedDataset
from steercache.runs.plan import TraceJob
from steercache.trace.numerics import numerics
from steercache.zoo import in_place


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTrace:
    """A job, and how to load its model when there is work for it."""

    job: TraceJob
    load: Callable[[], LoadedModel]
    again: Callable[[], "PreparedTrace"]  # the same in another process: picklable, unlike an open data set


def prepare_trace(
    trace: str | Path | ResolvedTrace,
    *,
    cache_root: Path,
    device: str = "auto",
    dtype: str = "auto",
    device_map: Any = None,
    template_date: datetime.date | None = None,
) -> PreparedTrace:
    """Resolve a trace by name or file; reads tokenizer and configuration, not the weights.

    `template_date` is what the clock of a chat template shows; by default the model manifest's date, or today.

    Raises:
        ManifestError, NotFoundError: what is wrong with the manifests, the data or the model.
    """
    resolved = trace if isinstance(trace, ResolvedTrace) else resolve_trace(trace)
    model = resolved.model
    document = in_place(model.document, cache_root)
    bundle = load_bundle(document, cache_dir=cache_root, base_dir=model.base_dir, dtype=dtype)
    if template_date is not None:
        bundle = replace(bundle, template_date=template_date)
    load = partial(
        load_with_threads,
        partial(
            load_model,
            document,
            cache_dir=cache_root,
            base_dir=model.base_dir,
            device=device,
            dtype=dtype,
            device_map=device_map,
        ),
        resolved.trace.numerics.threads,
    )
    datasets = tuple(
        NamedDataset(name=d.document.name, examples=open_dataset(d.document, base_dir=d.base_dir))
        for d in resolved.datasets
    )
    job = TraceJob(
        manifest=resolved.trace,
        datasets=datasets,
        bundle=bundle,
        numerics=_numerics(resolved, bundle, device=_place(device, device_map)),
        model_source=ModelSource(
            manifest=model.document.model_dump(mode="json"), folder=str(Path(model.base_dir).absolute())
        ),
    )
    again = partial(
        prepare_trace,
        resolved,
        cache_root=cache_root,
        device=device,
        dtype=dtype,
        device_map=device_map,
        template_date=bundle.template_date,  # a worker that starts after midnight makes the same prompts
    )
    return PreparedTrace(job=job, load=load, again=again)


def load_with_threads(load: Callable[[], LoadedModel], n_threads: int | None) -> LoadedModel:
    """Load a model after setting the number of CPU threads that the manifest asks for."""
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    return load()


def _place(device: str, device_map: Any) -> torch.device:
    """Where the model will lie; of one that is spread, the device that its first part gets."""
    named = next(iter(device_map.values()), device) if isinstance(device_map, Mapping) else device_map
    return resolve_device("cpu" if named == "cpu" else device)


def _numerics(resolved: ResolvedTrace, bundle: TokenizerBundle, *, device: torch.device) -> dict[str, Any]:
    batching = resolved.trace.numerics_identity()
    return {**batching, **numerics(bundle, device=device, n_threads=batching["threads"])}
