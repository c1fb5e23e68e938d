"""Rows of a run in place of a forward pass over questions, found by the hash of the input.

A replay uses the row of every token (without padding) as the run computed it, in batches of its own: equal to the full
forward within the stated tolerance, and bit for bit only in the run's own batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.task import EncodedQuestion
from steercache.cache.documents import RunDocument
from steercache.cache.handle import CacheFolder
from steercache.core.ids import SHORT_ID
from steercache.core.selection import RowIndex, RowSource
from steercache.models.spec import LoadedModel, ModelSpec
from steercache.models.streams import rows_obstacle
from steercache.steering.replay_fit import misfit_of_numerics
from steercache.steering.stored_rows import GatheredBatch, RunFacts

SITE = "resid_post"
_TOKENS = """
SELECT s.sample_id, t.token_id, t.row_idx FROM tokens t JOIN samples s USING (run_id, sample_idx)
WHERE t.run_id = $run AND t.position >= 0 AND s.sample_idx IN (
    SELECT min(sample_idx) FROM samples WHERE run_id = $run AND sample_id IN (SELECT unnest($ids)) GROUP BY sample_id
) ORDER BY s.sample_id, t.position
"""

_KNOWN = "SELECT count(DISTINCT sample_id) FROM samples WHERE run_id = $run AND sample_id IN (SELECT unnest($ids))"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRun:
    """A run whose rows fit: token ids and rows of every question, by the hash of what the model reads."""

    facts: RunFacts
    source: RowSource = field(repr=False)
    token_ids: Mapping[str, npt.NDArray[np.int32]] = field(repr=False)
    rows: Mapping[str, RowIndex] = field(repr=False)

    def batch(self, asked: Sequence[EncodedQuestion]) -> GatheredBatch:
        """The stored rows of these questions as one batch, padded to the longest."""
        ids = [one.encoded.sample_id for one in asked if one.encoded is not None]
        return GatheredBatch(
            facts=self.facts,
            padded_len=max(len(self.token_ids[i]) for i in ids),
            as_recorded=False,
            sample_ids=ids,
            token_ids=[self.token_ids[i] for i in ids],
            rows=[self.rows[i] for i in ids],
            source=self.source,
        )

    def of(self, asked: Sequence[EncodedQuestion]) -> "ReplayRun":
        """The same run with what is known of these questions alone."""
        ids = [one.encoded.sample_id for one in asked if one.encoded is not None]
        return replace(self, token_ids={i: self.token_ids[i] for i in ids}, rows={i: self.rows[i] for i in ids})


def find_replay(
    cache: CacheFolder, loaded: LoadedModel, asked: Sequence[EncodedQuestion], layers: Sequence[int]
) -> tuple[ReplayRun | None, str]:
    """The newest run that has every question's rows at all `layers`; without one, why the nearest does not fit."""
    spec = loaded.spec
    ids = sorted({one.encoded.sample_id for one in asked if one.encoded is not None})
    reason = f"no run has rows of {spec.name}"
    if not ids:
        return None, "there is no question"
    if (obstacle := rows_obstacle(loaded.family, loaded.config)) is not None:
        return None, obstacle
    for document in cache.documents():
        if document.model.fingerprint != spec.fingerprint:
            continue
        wrong = _misfit(document, spec, layers)
        if wrong is None:
            source = cache.source(document.run_id)
            found = _rows(cache, document.run_id, ids)
            if source.lossy:
                wrong = "is of a lossy generation"
            elif found is None:
                wrong = _lacking(cache, document.run_id, ids)
            else:
                wrong = misfit_of_numerics(document.numerics, loaded)
            if wrong is None and found is not None:
                return ReplayRun(facts=_facts(document), source=source, token_ids=found[0], rows=found[1]), ""
        reason = f"the run {document.name!r} ({document.run_id[:SHORT_ID]}) {wrong}"
    return None, reason


def _misfit(document: RunDocument, spec: ModelSpec, layers: Sequence[int]) -> str | None:
    """What of a run of this model says that its rows cannot stand for a forward pass."""
    if document.model.dtype != spec.dtype or document.layout.dtype != spec.dtype:
        return f"is in {document.layout.dtype}, computed in {document.model.dtype}; the model computes in {spec.dtype}"
    if document.identity.get("model", {}).get("tokenizer") != spec.tokenizer_digest:
        return "was made with another tokenizer"
    kept = [layer for site in document.layout.sites if site.site == SITE for layer in site.layers]
    missing = sorted(set(layers) - set(kept))
    if missing:
        return f"lacks layer {', '.join(map(str, missing))}"
    return None if document.replayable else "did not keep every row"


def _rows(
    cache: CacheFolder, run_id: str, ids: Sequence[str]
) -> tuple[dict[str, npt.NDArray[np.int32]], dict[str, RowIndex]] | None:
    """Token ids and rows by sample; None where a sample or a row is not there."""
    with cache.connection() as con:
        table = con.sql(_TOKENS, params={"run": run_id, "ids": list(ids)}).to_arrow_table()
    if table.column("row_idx").null_count:
        return None
    names = np.asarray(table.column("sample_id").to_pylist(), dtype=object)
    found, firsts = np.unique(names.astype(str), return_index=True) if len(names) else (names, np.zeros(0, np.int64))
    if list(found) != list(ids):
        return None
    token_ids = np.split(table.column("token_id").to_numpy().astype(np.int32), firsts[1:])
    rows = np.split(table.column("row_idx").to_numpy().astype(np.int64), firsts[1:])
    return dict(zip(ids, token_ids, strict=True)), dict(zip(ids, rows, strict=True))


def _lacking(cache: CacheFolder, run_id: str, ids: Sequence[str]) -> str:
    """How many of the questions a run has, which has not all rows of all of them."""
    with cache.connection() as con:
        (n_known,) = con.execute(_KNOWN, {"run": run_id, "ids": list(ids)}).fetchone() or (0,)
    if n_known == len(ids):
        return "lacks rows of some of these questions"
    if n_known:
        return f"has {n_known} of these {len(ids)} questions"
    asked = "other pictures, or prompts of another form (`prefix`, `form`, `chat` of its data set)"
    return f"has none of these questions: it read {asked}"


def _facts(document: RunDocument) -> RunFacts:
    return RunFacts(
        name=document.name,
        fingerprint=document.model.fingerprint,
        tokenizer_digest=str(document.identity["model"]["tokenizer"]),
        dtype=document.model.dtype,
        stored_dtype=document.layout.dtype,
        replayable=document.replayable,
        lossy=False,
        numerics=document.numerics,
    )
