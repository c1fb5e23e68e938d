"""Samples of a run and their tokens, as `Cache.samples` and `Cache.sample` return them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import NotFoundError
from steercache.queries.session import Session

MAX_TOKENS: Final = 8192  # of one sample that are read at a time
_TEXT_CHARS: Final = 300
_TASK: Final = "meta ->> '$.task'"
_MATCHING: Final = f"""
FROM samples
WHERE run_id = $run
    AND ($concept IS NULL OR concept = $concept)
    AND ($dataset IS NULL OR dataset = $dataset)
    AND ($split IS NULL OR split = $split)
    AND ($task IS NULL OR {_TASK} = $task)
    AND ($search IS NULL OR contains(lower(concat_ws(' ', text, question, answer)), lower($search)))
"""
_PAGE: Final = f"""
SELECT sample_idx, dataset, split, concept, {_TASK} AS task, left(coalesce(question, text), {_TEXT_CHARS}) AS text,
    answer, image_digest IS NOT NULL AS has_picture, n_tokens
{_MATCHING}
ORDER BY sample_idx LIMIT $limit OFFSET $offset
"""
_LABELS: Final = f"""
SELECT 'concept' AS label, concept AS value, count(*) AS n FROM samples WHERE run_id = $run GROUP BY 2
UNION ALL SELECT 'dataset', dataset, count(*) FROM samples WHERE run_id = $run GROUP BY 2
UNION ALL SELECT 'split', split, count(*) FROM samples WHERE run_id = $run GROUP BY 2
UNION ALL SELECT 'task', {_TASK}, count(*) FROM samples WHERE run_id = $run GROUP BY 2
ORDER BY 1, 3 DESC, 2
"""
_SAMPLE: Final = f"""
SELECT sample_idx, sample_id, ordinal, dataset, split, concept, {_TASK} AS task, text, question, choices, answer, image_digest,
    n_tokens
FROM samples WHERE run_id = $run AND sample_idx BETWEEN $sample - 1 AND $sample + 1
"""
_TOKENS: Final = """
SELECT position, row_idx, token_id, piece, char_start, char_end, kind::VARCHAR AS kind, is_anchor, is_control, tile, patch_row,
    patch_col, target, option_idx, margin
FROM tokens WHERE run_id = $run AND sample_idx = $sample
ORDER BY position, row_idx, target, option_idx LIMIT $limit
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One sample in a list: its labels, the question or the beginning of its text, and its number of tokens."""

    sample_idx: int
    dataset: str
    split: str | None
    concept: str | None
    task: str | None
    text: str | None
    answer: str | None
    has_picture: bool
    n_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePage:
    """Some samples of a run, ascending by number; `n` samples match in all."""

    run_id: str
    rows: tuple[SampleRow, ...]
    n: int
    offset: int

    def __iter__(self) -> Iterator[SampleRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of a sample, or one pooled or gradient row of it.

    `row_idx` is its row of the activation arrays, None where none was kept; `text` the characters of the sample's text from
    `char_start` to `char_end`, or the token as the tokenizer writes it. `tile`, `patch_row` and `patch_col` are -1 for tokens
    that are no patches of a picture. Rows of a gradient run have a `target`, an `option_idx` and a `margin`.
    """

    position: int
    row_idx: int | None
    token_id: int
    piece: str | None
    text: str
    char_start: int
    char_end: int
    kind: str
    is_anchor: bool
    is_control: bool
    tile: int
    patch_row: int
    patch_col: int
    target: str | None = None
    option_idx: int | None = None
    margin: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One input of a run with its labels and its tokens, in order.

    `before` and `after` are the numbers of its neighbours (None where the run has none yet); `sample_id` is the hash of what
    reached the model, `image_digest` that of its picture. Of a longer sample, `tokens` are the first 8,192.
    """

    run_id: str
    sample_idx: int
    sample_id: str
    ordinal: int
    dataset: str
    split: str | None
    concept: str | None
    task: str | None
    text: str | None
    question: str | None
    choices: tuple[str, ...]
    answer: str | None
    image_digest: str | None
    n_tokens: int
    before: int | None
    after: int | None
    tokens: tuple[Token, ...] = field(repr=False)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Row of every token in the activation arrays, shape (t,); -1 where none was kept."""
        return np.array([-1 if t.row_idx is None else t.row_idx for t in self.tokens], dtype=np.int64)


def list_samples(
    session: Session, run_id: str, matching: Mapping[str, str | None], *, offset: int, limit: int
) -> SamplePage:
    """See `Cache.samples`; `matching` has the keys concept, dataset, split, task and search."""
    values = {"run": run_id, **matching}
    with session.cache.connection() as con:
        n = rows_of(con, f"SELECT count(*) AS n {_MATCHING}", values)[0]["n"]
        found = rows_of(con, _PAGE, values | {"limit": limit, "offset": offset})
    return SamplePage(run_id=run_id, rows=tuple(SampleRow(**row) for row in found), n=n, offset=offset)


def count_labels(session: Session, run_id: str) -> dict[str, dict[str | None, int]]:
    """Samples of a run per value of the labels concept, dataset, split and task, the most frequent first."""
    counted: dict[str, dict[str | None, int]] = {name: {} for name in ("concept", "dataset", "split", "task")}
    with session.cache.connection() as con:
        for row in rows_of(con, _LABELS, {"run": run_id}):
            counted[row["label"]][row["value"]] = row["n"]
    return counted


def read_sample(session: Session, run_id: str, sample_idx: int) -> Sample:
    """See `Cache.sample`."""
    key = {"run": run_id, "sample": sample_idx}
    with session.cache.connection() as con:
        found = {one["sample_idx"]: one for one in rows_of(con, _SAMPLE, key)}
        if sample_idx not in found:
            raise NotFoundError(f"the run has no sample {sample_idx}", hint="list the samples of the run")
        tokens = rows_of(con, _TOKENS, key | {"limit": MAX_TOKENS})
    row = found[sample_idx]
    text = row["text"] or ""
    return Sample(
        run_id=run_id,
        **(row | {"choices": tuple(row["choices"] or ())}),
        before=sample_idx - 1 if sample_idx - 1 in found else None,
        after=sample_idx + 1 if sample_idx + 1 in found else None,
        tokens=tuple(_token(one, text) for one in tokens),
    )


def rows_of(con: Any, sql: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a statement of ours on the index."""
    found: list[dict[str, Any]] = con.sql(sql, params=dict(values)).to_arrow_table().to_pylist()
    return found


def _token(row: dict[str, Any], text: str) -> Token:
    numbers = ("char_start", "char_end", "tile", "patch_row", "patch_col")
    row |= {name: -1 if row[name] is None else row[name] for name in numbers}
    covers = 0 <= row["char_start"] < row["char_end"] <= len(text)
    return Token(**row, text=text[row["char_start"] : row["char_end"]] if covers else row["piece"] or "")
