"""Running a clause over the tokens of some samples: a database in memory, closed to files, network and settings."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steercache.core.errors import QueryError
from steercache.index.clause import HINT, ROW, SAMPLE, Clause
from steercache.index.database import reader_config
from steercache.index.functions import GatherRows, VectorAt, register_functions
from steercache.index.guard import Limits, run_query

Weights = npt.NDArray[np.float32]
LIMITS: Final = Limits(memory_mib=1024, spill_mib=1024, time_s=60.0)


class ClauseRunner:
    """Runs one clause over one table after another, on one connection; close it, or use it as a context.

    `activation` gives hidden states (n, d) of rows of the table, `vector` a vector (d,) at a layer. Only for clauses that have
    such calls. In one thread at a time.
    """

    def __init__(self, clause: Clause, *, activation: GatherRows | None = None, vector: VectorAt | None = None) -> None:
        self.clause = clause
        self._con = duckdb.connect(":memory:", config={**reader_config(), "threads": "1"})
        self._failures: list[QueryError] = []
        if clause.layers or clause.vectors:
            self._failures = register_functions(
                self._con, activation=activation or _no_activation, vector=vector or _no_vector
            )
        self._locked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the database."""
        self._con.close()

    def run(self, columns: Mapping[str, Any], lengths: Sequence[int]) -> list[Weights]:
        """Weight of every token, one array (t,) per sample, 0 where it is not selected.

        `columns` hold the samples one after another, `lengths` tokens each; among them is `position`, which counts up.

        Raises:
            QueryError: an unknown column, a condition that is not true or false, a weight that is no finite number, a limit.
        """
        starts = np.cumsum([0, *lengths])
        if self.clause.together:
            found = [self._ask(columns, slice(0, int(starts[-1])), lengths)]
        else:
            found = [self._ask(columns, slice(int(a), int(b)), (int(b - a),)) for a, b in pairwise(starts)]
        return np.split(np.concatenate(found), starts[1:-1]) if len(lengths) else []

    def _ask(self, columns: Mapping[str, Any], rows: slice, lengths: Sequence[int]) -> Weights:
        n_rows = rows.stop - rows.start
        table = pa.table({name: column[rows] for name, column in columns.items()})
        sample = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
        hidden = {SAMPLE: sample, ROW: np.arange(rows.start, rows.stop, dtype=np.int64)}
        for name, values in hidden.items():
            table = table.append_column(name, pa.array(values))
        self._con.register("tokens", table)
        sql = self.clause.sql
        found = self._run(f"SELECT * FROM ({sql}) WHERE hit" if self.clause.condition else sql)
        weight = np.zeros(n_rows, dtype=np.float32)
        starts = np.cumsum([0, *lengths])
        samples = found[SAMPLE].to_numpy() if self.clause.together else np.zeros(len(found), dtype=np.int64)
        of_first = table["position"].take(pa.array(starts[:-1])).to_numpy()  # a part of a text begins later
        position = _positions(found, self.clause) - of_first[samples]
        if ((position < 0) | (position >= np.asarray(lengths)[samples])).any():
            raise QueryError("the target returned a position that the prompt does not have", place=self.clause.text)
        at = starts[samples] + position
        if (np.bincount(at, minlength=n_rows) > 1).any():
            raise QueryError(
                "the target returned a token more than once", place=self.clause.text, hint="SELECT DISTINCT"
            )
        weight[at] = _weights(found, self.clause)
        return weight

    def _run(self, sql: str) -> pa.Table:
        try:
            found = run_query(self._con, sql, {}, limits=LIMITS, failures=self._failures, locked=self._locked)
        except QueryError as error:
            message = error.message.partition("\n")[0]
            raise QueryError(message, place=error.place or self.clause.text, hint=error.hint or HINT) from error
        finally:
            self._locked = True
        return found


def _positions(found: pa.Table, clause: Clause) -> npt.NDArray[np.int64]:
    allowed = {"position", "weight", "hit", SAMPLE}
    if "position" not in found.column_names or not set(found.column_names) <= allowed:
        raise QueryError(
            f"a target returns position and, if wanted, weight; this returns {', '.join(found.column_names)}",
            place=clause.text,
            hint="as a condition, compare the subquery: (select ...) = 1" if clause.text.startswith("(") else None,
        )
    if "hit" in found.column_names and not pa.types.is_boolean(found.schema.field("hit").type):
        raise QueryError(
            f"the condition is {found.schema.field('hit').type}, not true or false", place=clause.text, hint=HINT
        )
    column = found["position"]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise QueryError("position is an integer in every row", place=clause.text)
    positions: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return positions


def _weights(found: pa.Table, clause: Clause) -> Any:
    if "weight" not in found.column_names:
        return 1.0
    column = found["weight"]
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
    if not any(is_kind(column.type) for is_kind in kinds):
        raise QueryError(f"weight is a number, this is {column.type}", place=clause.text)
    with np.errstate(over="ignore"):
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy().astype(np.float32)
    if not np.isfinite(values).all():
        raise QueryError("weight is a finite number in every row", place=clause.text)
    return values


def _no_activation(run: str, site: str, layer: int, rows: Any) -> Any:
    raise QueryError("activations are not known here")


def _no_vector(name: str, layer: int) -> Any:
    raise QueryError(f"the vector {name!r} is not known here", hint="name a vector of the cache")
