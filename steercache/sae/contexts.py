"""Texts of a run on which features fire most: evidence for a judge where nobody has published any.

The rows are text tokens of the whole run, not only those of the concept, so that a feature that fires elsewhere shows it. Of an
encoded run they are all of them, read from the encoding; of another a part, which is encoded for it.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from steercache.cache.feature_files import open_encoding
from steercache.cache.feature_rows import EncodedRows
from steercache.cache.paths import RootPaths
from steercache.core.errors import NotFoundError
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
    encoded: EncodedRows | None = None,
) -> dict[int, Evidence]:
    """Evidence on each feature: its strongest tokens in the run, at most one per sample, strongest first.

    A feature that fires on no text token of these rows has no contexts. Special and image tokens are left out. With `encoded`,
    the run's features of this SAE, all its rows are looked at and none is encoded; without, at most `max_rows`.

    Raises:
        DamagedError: a file of the encoding contradicts its record.
    """
    spec = sae.spec
    assert spec.layer is not None
    n_rows = max_rows if encoded is None else np.iinfo(np.int64).max
    table = session.sql(_ROWS, run=source.run_id, n=int(n_rows)).to_arrow_table()
    columns = {name: table[name].to_numpy() for name in table.column_names}
    peaks = {f: _Peaks(n_contexts) for f in features}
    if encoded is None:
        _encode(source, sae, columns, peaks)
    else:
        _read(encoded, columns, peaks)
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


def whole_encoding(paths: RootPaths, sae: Encodes, source: RowSource) -> EncodedRows | None:
    """The features of the run's rows by this SAE, where all rows of the generation in force have them; else None.

    Raises:
        DamagedError: the encoding's document cannot be read.
    """
    try:
        encoding = open_encoding(paths, sae.spec.sae_id, source.run_id)
    except NotFoundError:
        return None
    return EncodedRows(encoding) if encoding.complete and encoding.generation == source.generation else None


def _read(encoded: EncodedRows, columns: dict[str, Any], peaks: dict[int, "_Peaks"]) -> None:
    """The peaks of features from the files of an encoding; `columns` ascend by row."""
    rows = columns["row_idx"].astype(np.int64)
    for f, peak in peaks.items():
        fires, values = encoded.read_feature(f)
        if len(fires):
            place = np.minimum(np.searchsorted(fires, rows), len(fires) - 1)
            at = np.flatnonzero(fires[place] == rows)
            peak.add(values[place[at]], at, columns["sample_idx"][at])


def _encode(source: RowSource, sae: Encodes, columns: dict[str, Any], peaks: dict[int, "_Peaks"]) -> None:
    """The peaks of features from the rows themselves."""
    spec = sae.spec
    assert spec.layer is not None
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


class _Peaks:
    """The strongest row of each sample, the best few samples."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._value, self._at, self._sample = (np.empty(0, dtype) for dtype in (np.float32, np.int64, np.int64))

    def add(self, values: npt.NDArray[np.float32], at: npt.NDArray[np.int64], samples: npt.NDArray[Any]) -> None:
        """Further rows, with their places in the run, ascending over all calls, and their samples."""
        fires = values > 0
        value = np.concatenate([self._value, values[fires]])
        place = np.concatenate([self._at, at[fires]])
        sample = np.concatenate([self._sample, samples[fires]])
        order = np.lexsort((place, -value))  # of equals the first in the run
        _, first = np.unique(sample[order], return_index=True)
        kept = order[np.sort(first)[: self._n]]
        self._value, self._at, self._sample = value[kept], place[kept], sample[kept]

    def best(self) -> list[tuple[float, int]]:
        """(activation, place), strongest first; of equals the first in the run."""
        return list(zip(self._value.tolist(), self._at.tolist(), strict=True))


def _context(columns: dict[str, Any], texts: dict[int, str | None], at: int, value: float) -> Context:
    text = texts.get(int(columns["sample_idx"][at])) or ""
    start, end = int(columns["char_start"][at]), int(columns["char_end"][at])
    return Context(
        before=text[max(0, start - AROUND) : start], token=text[start:end], after=text[end : end + AROUND], value=value
    )
