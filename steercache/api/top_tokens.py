"""Tokens that lie farthest along a vector, or on which an SAE's feature fires most, with the text around them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.api.projections import unit_direction
from steercache.api.sae_encoding import EncodedRun, find_encoded
from steercache.api.samples import rows_of
from steercache.cache.source import RunSource
from steercache.core.selection import RowIndex
from steercache.core.vectors import SteeringVector
from steercache.queries.session import Session

KINDS: Final = ("text", "image")
_BLOCK: Final = 8192  # rows that are projected at a time
_LEFT_OUT: Final = """
SELECT DISTINCT row_idx FROM tokens
WHERE run_id = $run AND row_idx IS NOT NULL AND (position = 0 OR NOT list_contains($kinds, kind::VARCHAR))
"""
_CONTEXTS: Final = """
WITH asked AS (SELECT unnest($rows::BIGINT[]) AS row_idx)
SELECT
    t.row_idx, t.sample_idx, t.position, t.kind::VARCHAR AS kind, t.is_anchor, s.concept, s.dataset,
    CASE WHEN char_start >= 0 AND char_end > char_start THEN s.text[char_start + 1:char_end] ELSE coalesce(piece, '') END
        AS token,
    CASE WHEN char_start >= 0 THEN s.text[greatest(char_start - $window, 0) + 1:char_start] ELSE '' END AS before,
    CASE WHEN char_start >= 0 THEN s.text[char_end + 1:char_end + $window] ELSE '' END AS after,
    coalesce(t.patch_row, -1) AS patch_row, coalesce(t.patch_col, -1) AS patch_col
FROM tokens t
JOIN asked a ON a.row_idx = t.row_idx
JOIN samples s ON s.run_id = t.run_id AND s.sample_idx = t.sample_idx
WHERE t.run_id = $run
QUALIFY row_number() OVER (PARTITION BY t.row_idx ORDER BY t.sample_idx, t.position) = 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInContext:
    """A token with the text around it (`before`, `token`, `after`), and its projection or activation `value`."""

    value: float
    row_idx: int
    sample_idx: int
    position: int
    kind: str
    is_anchor: bool
    concept: str | None
    dataset: str
    before: str
    token: str
    after: str
    patch_row: int
    patch_col: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopTokens:
    """The tokens with the highest and the lowest values (`lowest` is empty for a feature), strongest first.

    `n_rows` rows were looked at, of `n_rows_of_run`: blocks of rows spread over the run, until the time was up. `n_fires`
    counts the rows in which a feature fires (None for a vector).
    """

    run_id: str
    layer: int
    highest: tuple[TokenInContext, ...]
    lowest: tuple[TokenInContext, ...]
    n_rows: int
    n_rows_of_run: int
    n_fires: int | None = None


def top_tokens_of_vector(
    session: Session,
    vector: SteeringVector,
    run_id: str,
    *,
    layer: int,
    n: int = 20,
    kinds: Sequence[str] = KINDS,
    time_s: float = 3.0,
    window: int = 60,
) -> TopTokens:
    """See `Cache.top_tokens`."""
    source = session.cache.source(run_id)
    source.layers(vector.site)
    width = source.document.layout.site(vector.site).width
    unit = unit_direction(vector, layer, width=width)
    with session.cache.connection() as con:
        table = con.sql(_LEFT_OUT, params={"run": run_id, "kinds": list(kinds)}).to_arrow_table()
    left_out = np.sort(table["row_idx"].to_numpy())
    best, worst, n_seen = _Strongest(n), _Strongest(n), 0
    until = time.monotonic() + time_s
    for first, rows_nd in _blocks(source, vector.site, layer):
        if n_seen and time.monotonic() > until:
            break
        with np.errstate(all="ignore"):  # rows with an infinity
            values = np.asarray(rows_nd, dtype=np.float32) @ unit
        n_seen += len(values)
        low, high = np.searchsorted(left_out, (first, first + len(values)))
        values[left_out[low:high] - first] = np.nan
        best.add(first, values)
        worst.add(first, -values)
    return TopTokens(
        run_id=run_id,
        layer=layer,
        highest=_in_context(session, run_id, best.rows, best.values, window),
        lowest=_in_context(session, run_id, worst.rows, -worst.values, window),
        n_rows=n_seen,
        n_rows_of_run=_n_rows(source),
    )


def top_tokens_of_feature(
    session: Session, sae: str, feature: int, run_id: str | None, *, n: int = 20, window: int = 60
) -> TopTokens:
    """Tokens on which a feature fires most, position 0 left out; the run is the one that was encoded with the SAE.

    Raises:
        NotFoundError: no run, or not this one, was encoded with it; or it has no such feature. QueryError: several were.
    """
    encoded = find_encoded(session.cache, sae, run_id)
    rows, values = encoded.feature(feature)
    with session.cache.connection() as con:
        table = con.sql(_LEFT_OUT, params={"run": encoded.run_id, "kinds": [*KINDS, "special", "template"]})
        left_out = table.to_arrow_table()["row_idx"].to_numpy()
    kept = ~np.isin(rows, left_out)
    order = np.argsort(-values[kept], kind="stable")[:n]
    return TopTokens(
        run_id=encoded.run_id,
        layer=encoded.layer,
        highest=_in_context(session, encoded.run_id, rows[kept][order], values[kept][order], window),
        lowest=(),
        n_rows=encoded.n_rows,
        n_rows_of_run=encoded.n_rows_of_run,
        n_fires=len(rows),
    )


class _Strongest:
    """The `n` rows with the highest values of those that were added, strongest first."""

    def __init__(self, n: int) -> None:
        self._n = n
        self.rows: RowIndex = np.empty(0, dtype=np.int64)
        self.values: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)

    def add(self, first: int, values: npt.NDArray[np.float32]) -> None:
        known = np.flatnonzero(np.isfinite(values))
        if len(known) > self._n:
            known = known[np.argpartition(-values[known], self._n - 1)[: self._n]]
        rows = np.concatenate([self.rows, known + first])
        joined = np.concatenate([self.values, values[known]])
        order = np.lexsort((rows, -joined))[: self._n]
        self.rows, self.values = rows[order], joined[order]


def _n_rows(source: RunSource) -> int:
    reader = source.reader
    return sum(reader.n_rows(shard_idx) for shard_idx in reader.shard_idxs)


def _blocks(source: RunSource, site: str, layer: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(first row, rows (n, d)) of every block of a layer, in an order that spreads over the run."""
    reader, views = source.reader, source.layer_views(site, layer)
    per_shard = source.document.layout.rows_per_shard
    places = [
        (at, shard_idx, first)
        for at, shard_idx in enumerate(reader.shard_idxs)
        for first in range(0, reader.n_rows(shard_idx), _BLOCK)
    ]
    for i in np.random.default_rng(0).permutation(len(places)).tolist():
        at, shard_idx, first = places[i]
        start = shard_idx * per_shard
        if views:
            yield start + first, views[at][1][first : first + _BLOCK]
        else:
            rows = np.arange(start + first, start + min(first + _BLOCK, reader.n_rows(shard_idx)))
            yield start + first, source.gather(site, layer, rows)


def _in_context(
    session: Session, run_id: str, rows: RowIndex, values: npt.NDArray[np.float32], window: int
) -> tuple[TokenInContext, ...]:
    if not len(rows):
        return ()
    with session.cache.connection() as con:
        found = rows_of(con, _CONTEXTS, {"run": run_id, "rows": rows.tolist(), "window": window})
    by_row = {row["row_idx"]: row for row in found}
    return tuple(
        TokenInContext(value=float(value), **by_row[row])
        for row, value in zip(rows.tolist(), values.tolist(), strict=True)
        if row in by_row
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFeature:
    """A feature of an SAE, the number of rows in which it fires, and its highest activation there."""

    feature: int
    n_fires: int
    highest: float


def live_features(
    encoded: EncodedRun, *, n: int = 60, most: float = 0.2, max_entries: int = 20_000_000
) -> list[LiveFeature]:
    """The features with the highest activations in the first shard of a run that fire in at most a share `most` of its rows.

    None where the shard has more than `max_entries` activations. Raises DamagedError.
    """
    fresh = encoded.rows.encoding.fresh
    shard = next(iter(fresh), None)
    if shard is None or fresh[shard].n_entries > max_entries:
        return []
    acts = encoded.rows.read_shard(shard)
    fires = np.bincount(acts.indices, minlength=acts.n_features)
    highest = np.zeros(acts.n_features, dtype=np.float32)
    np.maximum.at(highest, acts.indices, acts.values)
    live = np.flatnonzero((fires > 0) & (fires <= max(most * acts.n_rows, 8)))
    order = live[np.argsort(-highest[live], kind="stable")][:n]
    return [LiveFeature(feature=int(f), n_fires=int(fires[f]), highest=float(highest[f])) for f in order]
