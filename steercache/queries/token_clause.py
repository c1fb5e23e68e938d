"""Targets written as SQL: read, with the vectors that they name, and planned over prompts before the forward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import NotFoundError, QueryError
from steercache.core.vectors import SteeringVector
from steercache.index.clause import PREFIX, Clause, is_clause, read_clause, weighted_clause, with_vector_names
from steercache.index.clause_run import ClauseRunner, Weights
from steercache.queries.token_table import COLUMNS, TokenFacts, token_columns

FindVector = Callable[[str], SteeringVector]
RowsAt = Callable[[int, npt.NDArray[np.int64]], npt.NDArray[Any]]
"""Layer and tokens (n,), numbered over all samples, to hidden states (n, d)."""
_HINT: Final = f"columns of tokens: {', '.join(COLUMNS)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClause:
    """A target as SQL. `vectors` are those that it names, by id: the ids stand in its text, so that the text says all."""

    clause: Clause
    vectors: Mapping[str, SteeringVector] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    def __str__(self) -> str:
        return f"{PREFIX} {self.clause.text}"

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose unsteered outputs the condition looks at."""
        return self.clause.layers

    @property
    def weighted(self) -> bool:
        """Whether tokens have weights other than 0 and 1."""
        return self.clause.weighted


def read_token_clause(text: str, find_vector: FindVector | None = None) -> TokenClause:
    """A target from its text, `sql: kind = 'image' and patch_row < 3`; vectors are looked up by name.

    Raises:
        QueryError: the SQL is wrong or not allowed. NotFoundError: no such vector, or no way to look one up.
    """
    clause = read_clause(text)
    names = sorted({name for name, _ in clause.vectors})
    if not names:
        return TokenClause(clause=clause)
    if find_vector is None:
        raise NotFoundError(
            f"the target names the vector {names[0]!r}, which is not known here",
            place=clause.text,
            hint="read the target with the cache that has the vector: cache.target(...)",
        )
    found = {name: find_vector(name) for name in names}
    for name, layer in clause.vectors:
        if layer not in found[name].layers:
            raise QueryError(
                f"the vector {name!r} has no layer {layer}",
                place=clause.text,
                hint=f"it has: {', '.join(map(str, found[name].layers))}",
            )
    by_id = {vector.vector_id: vector for vector in found.values()}
    ids = {name: vector.vector_id for name, vector in found.items()}
    return TokenClause(clause=with_vector_names(clause, ids), vectors=MappingProxyType(by_id))


def canonical_target(target: str) -> str:
    """A target's text as it enters ids: a name as it is, SQL in its canonical form. Raises QueryError."""
    return f"{PREFIX} {read_clause(target).text}" if is_clause(target) else target


def target_text(where: str, weight: str | None = None) -> str:
    """A target as SQL from a condition and, if wanted, an expression for the weight.

    >>> target_text("kind='image'", "0.5")
    "sql: select position, (0.5) as weight from tokens where (kind = 'image')"

    Raises:
        QueryError: the SQL is wrong or not allowed.
    """
    return f"{PREFIX} {read_clause(where).text if weight is None else weighted_clause(where, weight)}"


def plan_tokens(
    target: TokenClause,
    samples: Sequence[TokenFacts],
    *,
    tokenizer: Any = None,
    rows_at: RowsAt | None = None,
) -> list[Weights]:
    """Weight of every token of every sample, float32 (t,) each; 0: not selected, 1: selected without a weight.

    `rows_at` gives unsteered hidden states, for clauses with `activation(layer)`.

    Raises:
        QueryError: a column that there is not, a condition that is not true or false, hidden states that are not known.
        UsageError: a column that is not known of these samples.
    """
    if not samples:
        return []
    clause = target.clause
    columns = token_columns(clause.words, samples, tokenizer)

    def activation(run: str, site: str, layer: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if rows_at is None:
            raise QueryError("activations are not known here", place=clause.text)
        return rows_at(layer, rows)

    def vector(name: str, layer: int) -> npt.NDArray[Any]:
        return target.vectors[name].at(layer)

    try:
        with ClauseRunner(clause, activation=activation, vector=vector) as runner:
            return runner.run(columns, [one.n_tokens for one in samples])
    except QueryError as error:
        if "not found" in error.message or "does not exist" in error.message:
            raise QueryError(error.message, place=error.place, hint=_HINT) from error
        raise
