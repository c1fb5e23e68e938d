"""Targets of cells: by name, or written as SQL, whose vectors are looked up before anything is run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from steercache.cells.options import EvalOptions
from steercache.core.errors import UsageError
from steercache.core.examples import EncodedSample
from steercache.index.clause import is_clause
from steercache.queries.session import Session
from steercache.queries.token_clause import TokenClause, plan_tokens, read_token_clause
from steercache.queries.token_table import facts_of


def with_clauses(options: EvalOptions, session: Session) -> EvalOptions:
    """The options with targets in their canonical form, and what those that are SQL mean.

    Raises:
        QueryError: SQL that is wrong or not allowed. NotFoundError: a vector that the cache does not have.
        UsageError: a target is named twice.
    """
    axes = options.axes
    read = {text: read_token_clause(text, session.vector) for text in axes.targets if is_clause(text)}
    if not read:
        return options
    targets = tuple(str(read.get(text, text)) for text in axes.targets)
    if len(set(targets)) < len(targets):
        raise UsageError("a target is named twice", hint="two texts of the same SQL are one target")
    clauses = MappingProxyType({str(clause): clause for clause in read.values()})
    return replace(options, axes=replace(axes, targets=targets, clauses=clauses))


def refuse_empty(
    clauses: Mapping[str, TokenClause], samples: Sequence[EncodedSample], *, tokenizer: object, name: str
) -> None:
    """Plan targets over encoded questions before anything is run. Conditions on activations are known later.

    Raises:
        UsageError: a target selects no token of any question. QueryError: SQL with a column that there is not.
    """
    for text, clause in clauses.items():
        if clause.layers or not samples:
            continue
        weights = plan_tokens(clause, [facts_of(one) for one in samples], tokenizer=tokenizer)
        if not any(one.any() for one in weights):
            raise UsageError(
                f"the target selects no token of any of the {len(samples)} questions of {name}",
                place=text,
                hint="steercache.plan_target(model, target, prompt) shows what it selects",
            )
