"""What could be kept instead: choices of layers, rows and codec with their sizes and what can still be done with them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from steercache.core.layout import LOSSY_CODECS, CodecName, StoreLayout
from steercache.manifests.trace import PATCH_POLICIES, RowPolicy
from steercache.runs.inputs import iter_inputs
from steercache.runs.packing import first_samples
from steercache.runs.plan import TraceJob, bytes_of_shard, sites_of, slots_of_shards, stored_dtype
from steercache.runs.rows import kept_rows

Counts = npt.NDArray[np.int64]

# Coded bytes over raw bytes, of bfloat16 activations of SmolLM2 (measured); of other models they are an estimate.
CODED: dict[CodecName, float] = {"raw": 1.0, "pcodec": 0.68, "int8": 0.37}
NARROWER = ("all", "image", "text", "last", "pooled")  # of a trace that keeps all rows
FIT = {
    "all": "vectors from any tokens",
    "image": "vectors from image tokens",
    "text": "vectors from text tokens",
    "last": "vectors from last tokens",
    "every": "vectors from every n-th token",
    "roles": "vectors from tokens of these roles",
    "pooled": "vectors from means of samples; no single tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One choice, and its consequences. Sizes in bytes.

    `n_bytes` is what stays on the disk, an estimate where `codec` is not raw; `n_bytes_written` what is there while it is
    made: a build writes raw rows, and compacting keeps them beside the coded ones until garbage is collected. `fits` compares
    `n_bytes` with the budget.

    `fit` says which vectors can be fitted, at `layers`; only vectors of these layers can be screened and get strengths in
    units of row norms. `replay`: answers of vectors at `layers` can be computed from cached rows; without it they are
    computed in full or by branching. `saes`: features of single rows can be encoded at `layers`. `exact`: values are those
    that the model computed (means are computed from those).
    """

    layers: tuple[int, ...]
    rows: str
    codec: CodecName
    n_rows: int
    n_bytes: int
    n_bytes_written: int
    fits: bool
    fit: str
    replay: bool
    saes: bool
    exact: bool

    @property
    def n_kept(self) -> int:
        """Rows times layers."""
        return self.n_rows * len(self.layers)


def propose(
    job: TraceJob, budget_bytes: int, *, progress: Callable[[str, int, int | None], None] = lambda *_: None
) -> tuple[Proposal, ...]:
    """Choices that narrow what the manifest keeps, those that fit the budget first, then by what they keep: most rows and
    layers first, of as many those that can be replayed and are exact. Every input is read once.

    Rows that samples share (`share_prefix`) are counted for each sample.

    Raises:
        ManifestError: samples that cannot be traced. UsageError: layers or sites that the model does not have.
    """
    policies = _policies(job)
    counts = _count_rows(job, policies, progress)
    found = []
    for policy, rows in zip(policies, counts, strict=True):
        if not rows.any():
            continue
        for layers in _layer_choices(job):
            narrowed = replace(job, manifest=job.manifest.model_copy(update={"rows": policy, "layers": layers}))
            layout, n_bytes = _sized(narrowed, rows)
            found += [
                _proposal(narrowed, layout, codec, n_rows=int(rows.sum()), raw_bytes=n_bytes, budget_bytes=budget_bytes)
                for codec in CODED
            ]
    return tuple(sorted(found, key=lambda p: (not p.fits, -p.n_kept, not p.replay, not p.exact, p.n_bytes_written)))


def shortlist(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Of the same rows and layers one: exact before lossy, with the least to write; and none that keeps the same rows as
    another which allows more. Where nothing fits, the three smallest."""
    fitting = [one for one in proposals if one.fits]
    if not fitting:
        return sorted(proposals, key=lambda one: one.n_bytes)[:3]
    best: dict[tuple[tuple[int, ...], int, bool], Proposal] = {}
    for one in sorted(fitting, key=lambda one: (not one.exact, not one.replay, one.n_bytes_written)):
        best.setdefault((one.layers, one.n_rows, one.saes), one)
    return [one for one in fitting if one in best.values()]


def _policies(job: TraceJob) -> list[RowPolicy]:
    own = job.manifest.rows
    if own.policy != "all":
        return [own]
    names = [name for name in NARROWER if not job.patches or name in PATCH_POLICIES]
    return [RowPolicy.model_validate({"policy": name}) for name in names]


def _count_rows(
    job: TraceJob, policies: Sequence[RowPolicy], progress: Callable[[str, int, int | None], None]
) -> list[Counts]:
    """Rows of each sample under each policy, shape (samples,) each."""
    counts: list[list[int]] = [[] for _ in policies]
    inputs = iter_inputs(job.datasets, job.bundle, max_tokens=job.manifest.max_tokens, patches=job.patches)
    for n, sample in enumerate(inputs, start=1):
        for policy, into in zip(policies, counts, strict=True):
            into.append(kept_rows(sample.units, policy, sink=not job.patches).n_rows)
        if n % 256 == 0:
            progress("counting rows", n, None)
    return [np.array(one, dtype=np.int64) for one in counts]


def _layer_choices(job: TraceJob) -> list[tuple[int, ...]]:
    """The manifest's layers, every second and every fourth of them, and one from the middle."""
    own = job.manifest.resolve_layers(job.spec.n_layers)
    choices = [own, own[1::2], own[3::4], (own[len(own) // 2],)]
    return [layers for at, layers in enumerate(choices) if layers and layers not in choices[:at]]


def _sized(job: TraceJob, rows: Counts) -> tuple[StoreLayout, int]:
    """The layout of a run whose samples keep `rows`, and the bytes of its arrays and coordinates, as `Plan.n_bytes`."""
    sites = sites_of(job)
    slots = slots_of_shards(job, sites, int(rows.max()), mean=float(rows.mean()) if len(rows) else math.inf)
    firsts = first_samples(rows, rows_per_shard=slots)
    layout = StoreLayout(
        sites=sites,
        dtype=stored_dtype(job),
        n_shards=len(firsts),
        rows_per_shard=slots,
        chunk_rows=job.manifest.chunk_rows,
    )
    of_shards = np.add.reduceat(rows, firsts)
    by_rows, n_of_each = np.unique(of_shards, return_counts=True)
    return layout, sum(int(n) * bytes_of_shard(layout, int(used)) for used, n in zip(by_rows, n_of_each, strict=True))


def _proposal(
    job: TraceJob, layout: StoreLayout, codec: CodecName, *, n_rows: int, raw_bytes: int, budget_bytes: int
) -> Proposal:
    coded = round(raw_bytes * CODED[codec])
    policy, lossy = job.manifest.rows, codec in LOSSY_CODECS
    pooled, whole = policy.policy == "pooled", policy.policy == "all"
    replay = (
        whole
        and not lossy
        and job.manifest.replayable
        and not job.manifest.share_prefix
        and "resid_post" in job.manifest.sites
        and layout.dtype == job.spec.dtype
    )
    return Proposal(
        layers=job.manifest.resolve_layers(job.spec.n_layers),
        rows=policy.policy,
        codec=codec,
        n_rows=n_rows,
        n_bytes=coded,
        n_bytes_written=raw_bytes if codec == "raw" else raw_bytes + coded,
        fits=coded <= budget_bytes,
        fit=FIT[policy.policy] if not job.patches else FIT[policy.policy].replace("tokens", "patches"),
        replay=replay,
        saes=not pooled,
        exact=not lossy and layout.dtype in (job.spec.dtype, "float32"),
    )
