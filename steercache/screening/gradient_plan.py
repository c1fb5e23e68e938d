"""What a gradient run will hold: questions whose options can be told apart, their rows in shards, and its identity.

The identity has the weights, the questions as the model reads them, the first tokens of their options, the definition of the
margin, layers and targets. Which option is right is a label: mending it makes no other run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from steercache.answers.option_tokens import answer_options
from steercache.benchmarks.task import PLAIN, EncodedQuestion, Wording
from steercache.cache.documents import DatasetInputs, RunDocument, installed_versions, run_id_of, run_model
from steercache.cache.handle import CacheFolder
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.ids import SHORT_ID, digest
from steercache.core.layout import ITEM_BYTES, SiteLayout, StoreLayout
from steercache.core.trials import Target
from steercache.models.spec import TokenizerBundle
from steercache.queries.token_clause import TokenClause
from steercache.runs.packing import choose_rows_per_shard, digest_of_inputs, pack_shards
from steercache.steering.gradient import MARGIN

SITE: Final = "margin_grad"
ROW_KIND: Final = "sample_target"
CHUNK_ROWS: Final = 64
SHARD_MIB: Final = 16  # what a kill may cost: some tens of questions
TOKENS_PER_BATCH: Final = 1024  # a backward pass holds what every block computed


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientSample:
    """A question that can be screened: first tokens of its options in the question's order, and which is right."""

    one: EncodedQuestion
    options: tuple[int, ...]
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientRequest:
    """What gradients are wanted of: `targets` and `layers` of one model over the questions of `benchmark`. `clauses` are the
    targets written as SQL, by their text."""

    benchmark: str
    layers: tuple[int, ...]
    targets: tuple[Target | str, ...]
    clauses: Mapping[str, TokenClause] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    tokens_per_batch: int = TOKENS_PER_BATCH

    def __post_init__(self) -> None:
        if not self.layers or not self.targets:
            raise UsageError("gradients are of layers and targets: at least one of each")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientPlan:
    """A gradient run before its first backward pass. `left_out` are questions that have no options to tell apart, or cannot
    be asked; they are counted, and no prediction is about them."""

    document: RunDocument
    samples: tuple[GradientSample, ...] = field(repr=False)
    left_out: tuple[EncodedQuestion, ...] = field(repr=False)
    targets: tuple[Target | str, ...]
    clauses: Mapping[str, TokenClause] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose outputs' gradients are kept."""
        return self.document.layout.sites[0].layers

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows."""
        return self.document.n_rows * self.document.layout.row_bytes


def plan_gradients(
    bundle: TokenizerBundle,
    asked: Sequence[EncodedQuestion],
    wish: GradientRequest,
    *,
    numerics: Mapping[str, Any],
    wording: Wording = PLAIN,
) -> GradientPlan:
    """The run that holds these gradients, whether it is there or not.

    Raises:
        UsageError: no question has options whose first tokens differ, or a layer that the model lacks.
    """
    spec = bundle.spec
    if unknown := sorted(layer for layer in wish.layers if not 0 <= layer < spec.n_layers):
        raise UsageError(
            f"{spec.name} has no layer {', '.join(map(str, unknown))}", hint=f"its blocks are 0 to {spec.n_layers - 1}"
        )
    samples, left_out = screenable(asked, bundle)
    if not samples:
        why = asked[0].error if asked and asked[0].encoded is None else "no answer options that begin differently"
        raise UsageError(
            f"none of the {len(asked)} questions of {wish.benchmark} can be screened: {why}",
            hint="ask for letters (form letter), which can be told apart",
        )
    rows = np.array([len(s.options) * len(wish.targets) for s in samples], dtype=np.int64)
    site = SiteLayout(site=SITE, layers=tuple(sorted(set(wish.layers))), width=spec.hidden_size)
    row_bytes = len(site.layers) * site.width * ITEM_BYTES["float32"]
    rows_per_shard = choose_rows_per_shard(
        row_bytes, shard_mib=SHARD_MIB, chunk_rows=CHUNK_ROWS, longest_sample=int(rows.max())
    )
    ids = [s.one.sample_id for s in samples]
    inputs = DatasetInputs(
        dataset=wish.benchmark, inputs_digest=digest_of_inputs(ids), first_sample=0, n_samples=len(ids)
    )
    tokens = np.array([s.one.encoded.n_tokens if s.one.encoded else 0 for s in samples], dtype=np.int64)
    shards = pack_shards(rows, tokens, ids, rows_per_shard=rows_per_shard)
    layout = StoreLayout(
        sites=(site,), dtype="float32", n_shards=len(shards), rows_per_shard=rows_per_shard, chunk_rows=CHUNK_ROWS
    )
    gradient: dict[str, Any] = {
        "margin": MARGIN,
        "targets": list(wish.targets),
        "options": digest([list(s.options) for s in samples]),
        "wording": wording.prompt_id,
    }
    if ITEM_BYTES[spec.dtype] < ITEM_BYTES["float32"]:
        gradient["logits"] = "float32"  # of the options; runs made before this had them in the model's dtype
    identity: dict[str, Any] = {
        "model": {"fingerprint": spec.fingerprint, "dtype": spec.dtype, "tokenizer": spec.tokenizer_digest},
        "inputs": [{"dataset": inputs.dataset, "digest": inputs.inputs_digest}],
        "kept": {
            "sites": [{"site": site.site, "layers": list(site.layers), "width": site.width}],
            "row_kind": ROW_KIND,
            "dtype": "float32",
            "chunk_rows": CHUNK_ROWS,
            "rows_per_shard": rows_per_shard,
            "replayable": False,
        },
        "gradient": gradient,
    }
    document = RunDocument(
        run_id=run_id_of(identity),
        name=f"{spec.name}-{wish.benchmark}-gradients",
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        model=run_model(bundle),
        datasets=(inputs,),
        identity=identity,
        numerics={**numerics, "tokens_per_batch": wish.tokens_per_batch, "padding_side": "left"},
        manifest={
            "kind": "gradients",
            "benchmark": wish.benchmark,
            **identity["gradient"],
            "layers": list(site.layers),
        },
        layout=layout,
        shards=shards,
        replayable=False,
        versions=installed_versions(),
    )
    return GradientPlan(
        document=document, samples=samples, left_out=left_out, targets=tuple(wish.targets), clauses=wish.clauses
    )


def screenable(
    asked: Sequence[EncodedQuestion], bundle: TokenizerBundle
) -> tuple[tuple[GradientSample, ...], tuple[EncodedQuestion, ...]]:
    """Questions with options that begin with different tokens, and the others."""
    kept, left_out = [], []
    for one in asked:
        options = None if one.encoded is None else answer_options(one, bundle.tokenizer)
        if options is None:
            left_out.append(one)
        else:
            kept.append(GradientSample(one=one, options=options[0], right=options[1]))
    return tuple(kept), tuple(left_out)


def find_run(cache: CacheFolder, plan: GradientPlan) -> RunDocument | None:
    """A run of the cache with these gradients: the planned one, complete or not, or a complete one that has more layers or
    targets of the same."""
    paths = cache.run_paths(plan.document.run_id)
    if paths.document.exists():
        return cache.run_document(plan.document.run_id)
    for document in cache.documents():
        if not stale_in(document, plan) and len(cache.source(document.run_id).reader.shard_idxs) == len(
            document.shards
        ):
            return document
    return None


def stale_in(document: RunDocument, plan: GradientPlan) -> list[str]:
    """Why a run's gradients do not fit the plan: one phrase per difference; empty if they fit."""
    if document.identity.get("kept", {}).get("row_kind") != ROW_KIND:
        return ["it holds no gradients"]
    is_, wanted = document.identity, plan.document.identity
    problems = [
        what
        for key, what in (
            ("fingerprint", "other weights"),
            ("dtype", "another dtype"),
            ("tokenizer", "another tokenizer"),
        )
        if is_["model"].get(key) != wanted["model"][key]
    ]
    if is_["inputs"] != wanted["inputs"]:
        problems.append("other prompts or questions")
    problems += [
        what
        for key, what in (
            ("margin", "another margin"),
            ("logits", "options' logits of another precision"),
            ("options", "other answer options"),
            ("wording", "another wording"),
        )
        if is_["gradient"].get(key) != wanted["gradient"].get(key)
    ]
    lacking = sorted(set(plan.layers) - set(document.layout.sites[0].layers))
    problems += [f"no layer {', '.join(map(str, lacking))}"] if lacking else []
    targets = [t for t in plan.targets if t not in is_["gradient"]["targets"]]
    return problems + ([f"no target {', '.join(targets)}"] if targets else [])


def named_run(cache: CacheFolder, name: str, plan: GradientPlan) -> RunDocument:
    """The named run, if it fits the plan.

    Raises:
        NotFoundError: there is none; UsageError: it is stale, or not complete.
    """
    document = cache.run_document(cache.resolve_run(name))
    problems = stale_in(document, plan)
    if problems:
        raise UsageError(
            f"the run {document.name!r} ({document.run_id[:SHORT_ID]}) does not fit: {'; '.join(problems)}",
            hint="name no gradient run: what is needed is recorded",
        )
    if len(cache.source(document.run_id).reader.shard_idxs) < len(document.shards):
        raise UsageError(
            f"the run {document.name!r} is not complete", hint="name no gradient run: this one is continued"
        )
    return document


def parent_of(cache: CacheFolder, plan: GradientPlan) -> str | None:
    """The newest complete trace of these weights that has every one of the questions; None where there is none."""
    ids = [s.one.sample_id for s in plan.samples]
    wanted = {"model": plan.document.model.fingerprint, "samples": ids, "n": len(ids)}
    try:
        with cache.connection() as con:
            found = con.execute(_PARENT, wanted).fetchall()
    except NotFoundError:  # an empty cache
        return None
    return str(found[0][0]) if found else None


_PARENT = """
SELECT r.run_id
FROM runs r
JOIN samples s ON s.run_id = r.run_id
WHERE r.model_fingerprint = $model
    AND r.complete
    AND r.row_kind IS DISTINCT FROM 'sample_target'
    AND s.sample_id IN (SELECT unnest($samples))
GROUP BY r.run_id, r.created_at
HAVING count(DISTINCT s.sample_id) = $n
ORDER BY r.created_at DESC, r.run_id
"""
