"""Texts of a run on which features fire most: evidence for a judge where nobody has published any.

The rows are text tokens of the whole run, not only those of the concept, so that a feature that fires elsewhere shows it.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from steercache.core.selection import RowSource
from steercache.sae.candidates import Encodes, encode_rows
from steercache.sae.evidence import Context, Evidence

N_CONTEXTS: Final = 10
AROUND: Final = 160  # characters of the sample's text on each side of the token
MAX_ROWS: Final = 4096  # rows that are encoded for it, spread evenly over the run's samples
_AT_ONCE: Final = 512

# Text tokens of a run that have a row, first positions left out: every so many samples, so that at most $n rows are read.
_ROWS = """
WITH kept AS (
    SELECT t.row_idx, t.sample_idx, t.position, t.char_start, t.char_end
    FROM tokens t
    WHERE t.run_id = $run AND t.kind = 'text' AND t.position > 0 AND t.row_idx IS NOT NULL AND t.char_start >= 0
), ranked AS (
    SELECT *, dense_rank() OVER (ORDER BY sample_idx) AS n_sample, (SELECT count(*) FROM kept) AS n_rows FROM kept
)
SELECT min(row_idx) AS row_idx, sample_idx, position, char_start, char_end
FROM ranked
WHERE n_sample % greatest(1, ceil(n_rows / $n)) = 0 OR n_rows <= $n
GROUP BY sample_idx, position, char_start, char_end
ORDER BY row_idx, sample_idx
"""
_TEXTS = (
    "SELECT sample_idx, text FROM samples WHERE run_id = $run AND sample_idx IN (SELECT unnest($samples::INTEGER[]))"
)


class AsksSql(Protocol):
    """What is needed of a session."""

    def sql(self, sql: str, /, **bindings: Any) -> Any: ...


def top_contexts(
    session: AsksSql,
    source: RowSource,
    sae: Encodes,
    features: Sequence[int],
    *,
    n_contexts: int = N_CONTEXTS,
    max_rows: int = MAX_ROWS,
) -> dict[int, Evidence]:
    """Evidence on each feature: its strongest tokens in the run, at most one per sample, strongest first.

    A feature that fires on no text token of these rows has no contexts. Special and image tokens are left out.
    """
    spec = sae.spec
    assert spec.layer is not None
    table = session.sql(_ROWS, run=source.run_id, n=max_rows).to_arrow_table()
    columns = {name: table[name].to_numpy() for name in table.column_names}
    peaks = {f: _Peaks(n_contexts) for f in features}
    rows = columns["row_idx"].astype(np.int64)
    for start in range(0, len(rows), _AT_ONCE):
        at = np.arange(start, min(start + _AT_ONCE, len(rows)))
        unique, inverse = np.unique(rows[at], return_inverse=True)
        x_nd = source.gather(spec.site, spec.layer, unique).astype(np.float32)
        finite = np.asarray(np.isfinite(x_nd).all(axis=1))
        acts = encode_rows(sae, np.where(finite[:, None], x_nd, 0)).dense()
        acts[~finite] = 0
        for f, peak in peaks.items():
            peak.add(acts[inverse, f], at, columns["sample_idx"][at])
    samples = sorted({int(columns["sample_idx"][at]) for peak in peaks.values() for _, at in peak.best()})
    texts = dict(session.sql(_TEXTS, run=source.run_id, samples=samples).fetchall())
    return {
        f: Evidence(
            layer=spec.layer,
            feature=f,
            explanation=None,
            contexts=tuple(_context(columns, texts, at, value) for value, at in peak.best()),
            source="run",
        )
        for f, peak in peaks.items()
    }


class _Peaks:
    """The strongest row of each sample, the best few samples."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._of_sample: dict[int, tuple[float, int]] = {}

    def add(self, values: npt.NDArray[np.float32], at: npt.NDArray[np.int64], samples: npt.NDArray[Any]) -> None:
        for i in np.flatnonzero(values > 0).tolist():
            sample, value = int(samples[i]), float(values[i])
            if value > self._of_sample.get(sample, (0.0, -1))[0]:
                self._of_sample[sample] = value, int(at[i])

    def best(self) -> list[tuple[float, int]]:
        """(activation, place), strongest first; of equals the first in the run."""
        return sorted(self._of_sample.values(), key=lambda one: (-one[0], one[1]))[: self._n]


def _context(columns: dict[str, Any], texts: dict[int, str | None], at: int, value: float) -> Context:
    text = texts.get(int(columns["sample_idx"][at])) or ""
    start, end = int(columns["char_start"][at]), int(columns["char_end"][at])
    return Context(
        before=text[max(0, start - AROUND) : start], token=text[start:end], after=text[end : end + AROUND], value=value
    )
