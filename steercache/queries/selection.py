"""From picked rows to a `Selection`: one run, no duplicates, every row one that was kept, in the order of the arrays."""

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steercache.core.errors import QueryError
from steercache.core.ids import SHORT_ID

# Where each picked row came from; run on the picked rows, registered as `picked`.
PLACES = """
SELECT t.row_idx, t.sample_idx, t.position, t.token_id
FROM tokens t
JOIN picked p ON t.row_idx = p.row_idx
WHERE t.run_id = $run AND t.row_idx BETWEEN $first AND $last
ORDER BY t.row_idx, t.sample_idx
"""
# How tokens are written without the space before them and capitals; asked only when folds are made.
WORDS = """
SELECT token_id, min(lower(ltrim(piece, 'Ġ▁ '))) AS word
FROM tokens
WHERE run_id = $run AND token_id IN (SELECT unnest($ids::INTEGER[]))
GROUP BY token_id
"""
SELECTED = ("run_id", "row_idx", "label", "pair", "weight")
_LABELS = (pa.types.is_integer, pa.types.is_boolean)


def picked_rows(
    reader: pa.RecordBatchReader, *, shares_rows: Callable[[str], bool] = lambda run_id: False
) -> tuple[str, pa.Table]:
    """The one run of a selection's result, and its rows ascending; the run's name is not kept once per row.

    In a run whose samples share rows, one that was picked for several of them with the same label counts once.

    Raises:
        QueryError: a column is missing, unknown or of the wrong type, a row is NULL or picked twice, or several runs are named.
    """
    _check_columns(reader.schema)
    kept = [name for name in SELECTED[1:] if name in reader.schema.names]
    runs: set[str | None] = set()
    batches = []
    for batch in reader:
        runs.update(pc.unique(batch["run_id"]).to_pylist())
        batches.append(batch.select(kept))
    if not runs:
        raise QueryError(
            "the query selected no rows", hint="`steercache query concept_counts` lists the labels of every run"
        )
    if len(runs) > 1 or None in runs:
        named = ", ".join(sorted(str(r)[:SHORT_ID] for r in runs))
        raise QueryError(f"a selection is of one run, these rows are of {len(runs)}: {named}", hint="-p run=RUN")
    table = pa.Table.from_batches(batches)
    lost = table["row_idx"].null_count
    if lost:
        raise QueryError(
            f"{lost} of the selected rows were not kept (row_idx is NULL)",
            hint="WHERE row_idx IS NOT NULL, or trace with a row policy that keeps them",
        )
    run_id = str(runs.pop())
    ordered = table.take(pc.sort_indices(table["row_idx"]))
    if not _is_strictly_ascending(ordered["row_idx"].to_numpy()) and shares_rows(run_id):
        ordered = ordered.group_by(ordered.column_names).aggregate([]).sort_by("row_idx")
    _refuse_duplicates(ordered["row_idx"].to_numpy())
    return run_id, ordered


def first_claims(places: pa.Table) -> pa.Table:
    """Of the tokens that share a row, the one of the first sample: its forward pass made the row."""
    rows = places["row_idx"].to_numpy()
    return places.filter(pa.array(np.diff(rows, prepend=rows[:1] - 1) > 0))


def _is_strictly_ascending(rows: npt.NDArray[Any]) -> bool:
    return bool((np.diff(rows) > 0).all())


def _check_columns(schema: pa.Schema) -> None:
    missing = [name for name in ("run_id", "row_idx") if name not in schema.names]
    if missing:
        has = ", ".join(schema.names)
        raise QueryError(
            f"a selection returns {' and '.join(missing)}; this returns {has}", hint="select run_id, row_idx ..."
        )
    doubled = [name for name in SELECTED if f"{name}_1" in schema.names]  # the guard numbers equal names
    if doubled:
        raise QueryError(f"the column {', '.join(doubled)} appears twice", hint="name each column once")
    unknown = [name for name in schema.names if name not in SELECTED]
    if unknown:  # a label or a weight under a wrong name would be no label and no weight
        raise QueryError(
            f"a selection has no column {', '.join(unknown)}; its columns: {', '.join(SELECTED)}", hint=_meant(unknown)
        )
    for name, is_right, noun in (
        ("run_id", pa.types.is_string, "text"),
        ("row_idx", pa.types.is_integer, "an integer"),
    ):
        if not is_right(schema.field(name).type):
            raise QueryError(f"{name} is {schema.field(name).type}, not {noun}")


def _meant(unknown: list[str]) -> str:
    """The columns that the unknown ones are closest to, or what to do without any."""
    close = [match for name in unknown for match in difflib.get_close_matches(name.lower(), SELECTED, n=1)]
    return f"did you mean {' and '.join(close)}?" if close else "leave it out of the SELECT"


def label_of(table: pa.Table) -> npt.NDArray[np.int8] | None:
    """Column `label` as 0 and 1. Raises QueryError for any other value."""
    if "label" not in table.column_names:
        return None
    column = table["label"]
    values = set(pc.unique(column).to_pylist())
    if not any(is_kind(column.type) for is_kind in _LABELS) or not values <= {0, 1}:
        raise QueryError(f"label is 0 or 1; this has {', '.join(sorted(map(str, values))[:5])}")
    labels: npt.NDArray[np.int8] = column.cast(pa.int8()).to_numpy()
    return labels


def pair_of(table: pa.Table) -> npt.NDArray[np.int64] | None:
    """Column `pair` numbered from 0 in ascending order of its values. Raises QueryError for NULL."""
    if "pair" not in table.column_names:
        return None
    column = table["pair"].combine_chunks()
    if column.null_count:
        raise QueryError(f"{column.null_count} rows have no pair", hint="leave out what is in no pair")
    values = column.to_numpy(zero_copy_only=False)
    _, numbers = np.unique(values, return_inverse=True)
    return numbers.astype(np.int64)


def weight_of(table: pa.Table) -> npt.NDArray[np.float32] | None:
    """Column `weight` in float32. Raises QueryError for what is no finite number >= 0."""
    if "weight" not in table.column_names:
        return None
    column = table["weight"]
    if column.null_count or not (
        pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type)
    ):
        raise QueryError(f"weight is a number for every row; this is {column.type} with {column.null_count} NULL")
    weights: npt.NDArray[np.float32] = column.cast(pa.float64()).to_numpy().astype(np.float32)
    if not np.all(np.isfinite(weights) & (weights >= 0)):
        raise QueryError("weight is finite and not negative for every row")
    return weights


def check_places(rows: npt.NDArray[np.int64], places: pa.Table) -> None:
    """Refuse rows that no token, or more than one, claims."""
    found = places["row_idx"].to_numpy()
    if np.array_equal(found, rows):
        return
    if len(found) > len(rows):
        raise QueryError("several tokens have the same row_idx", hint="steercache query check_duplicate_rows")
    lost = np.setdiff1d(rows, found)
    if len(lost):
        shown = ", ".join(str(r) for r in lost[:5])
        raise QueryError(f"{len(lost)} rows are no rows of the run: {shown}", hint="take row_idx from the table tokens")


def _refuse_duplicates(rows: npt.NDArray[Any]) -> None:
    twice = np.unique(rows[1:][np.diff(rows) == 0])
    if len(twice):
        shown = ", ".join(str(r) for r in twice[:5])
        raise QueryError(
            f"{len(twice)} rows were selected more than once: {shown}", hint="SELECT DISTINCT, or mend a join"
        )
