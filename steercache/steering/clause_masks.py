"""Targets written as SQL over the tokens of one pass: planned from what is known of them, as a mask or as weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.index.clause import is_clause
from steercache.queries.token_clause import TokenClause, plan_tokens, read_token_clause
from steercache.queries.token_table import TokenFacts, facts_of
from steercache.steering.pass_tokens import ForwardTokens, Vocabulary, ids_of, kinds_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedTarget:
    """A target that was planned over encoded prompts: weights (t,) of each, by its token ids (`ids_key`).

    A pass over other prompts is refused, and one in which nothing is selected, unless it `may_miss`. Of generated tokens the
    clause itself decides.
    """

    clause: TokenClause
    weights: Mapping[bytes, npt.NDArray[np.float32]] = field(repr=False)
    may_miss: bool = False

    def __repr__(self) -> str:
        """How many tokens of how many prompts.

        >>> from steercache.queries.token_clause import read_token_clause
        >>> clause = read_token_clause("position < 2")
        >>> PlannedTarget(clause=clause, weights={b"a": np.ones(2, np.float32), b"b": np.zeros(3, np.float32)})
        <sql: position < 2: 2 tokens of 2 prompts; none of 1 of them>
        """
        counts = [int(np.count_nonzero(one)) for one in self.weights.values()]
        return f"<{self.clause}: {sum(counts):,} tokens of {len(counts)} prompts; none of {counts.count(0)} of them>"


def ids_key(ids: npt.NDArray[Any]) -> bytes:
    """What a planned prompt is found by."""
    return np.ascontiguousarray(ids, dtype=np.int32).tobytes()


def clause_of(target: Any) -> TokenClause | None:
    """The SQL of a target; None for a target by name, a mask or a function. Raises QueryError, NotFoundError."""
    if isinstance(target, PlannedTarget):
        return target.clause
    if isinstance(target, TokenClause):
        return target
    return read_token_clause(target) if isinstance(target, str) and is_clause(target) else None


def layers_of(target: Any) -> tuple[int, ...]:
    """Blocks whose unsteered outputs have to be known before the target is; none for a target that was planned."""
    clause = clause_of(target)
    return () if clause is None or isinstance(target, PlannedTarget) else clause.layers


def clause_mask(target: Any, clause: TokenClause, tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
    """Bool (b, t), or the weights in float32."""
    real = tokens.real_bt.cpu()
    weights_bt = torch.zeros(real.shape, dtype=torch.float32, device="cpu")
    if isinstance(target, PlannedTarget) and tokens.prompt:
        weights = _planned(target, ids_of(tokens).cpu(), real)
    elif tokens.prompt or clause.clause.alone:
        facts, n_bd = _facts(tokens, real, vocabulary), tokens.outputs

        def rows_at(layer: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
            assert n_bd is not None
            hidden = n_bd(layer)
            if hidden.shape[1] < real.shape[1]:
                raise UsageError(
                    f"block {layer}, which the target looks at, has no keys of its own: the model computes its last token only",
                    hint="look at a layer below it (see the page about models)",
                )
            at = hidden[tokens.real_bt.to(hidden.device)]
            return at[torch.from_numpy(rows).to(at.device)].detach().float().cpu().numpy()

        weights = plan_tokens(clause, facts, tokenizer=vocabulary.tokenizer, rows_at=None if n_bd is None else rows_at)
    else:
        weights = [np.zeros(int(n), dtype=np.float32) for n in real.sum(1)]
    for row, where, found in zip(weights_bt, real, weights, strict=True):
        row[where] = torch.from_numpy(found)
    weights_bt = weights_bt.to(tokens.real_bt.device)
    return weights_bt if clause.weighted else weights_bt != 0


def _planned(target: PlannedTarget, ids_bt: torch.Tensor, real: torch.Tensor) -> list[npt.NDArray[np.float32]]:
    found = []
    for number, (ids, where) in enumerate(zip(ids_bt, real, strict=True), start=1):
        weights = target.weights.get(ids_key(ids[where].numpy()))
        if weights is None:
            raise UsageError(
                f"prompt {number} of the pass is none of those that the target was planned over",
                hint="plan the target over every prompt: steercache.plan_target(model, target, prompts)",
            )
        found.append(weights)
    return found


def _facts(tokens: ForwardTokens, real: torch.Tensor, vocabulary: Vocabulary) -> list[TokenFacts]:
    """What is known of every sequence: its encoded sample, else what its ids say."""
    if tokens.samples is not None and tokens.prompt:
        return [facts_of(sample) for sample in tokens.samples]
    ids_bt, found = ids_of(tokens).cpu(), []
    before = [0] * len(real) if tokens.before_b is None else tokens.before_b.tolist()
    for ids, where, n_before in zip(ids_bt, real, before, strict=True):
        own = ids[where].numpy().astype(np.int32)
        part = n_before > 0 or not tokens.prompt
        found.append(
            TokenFacts(
                token_id=own,
                kind=kinds_of(own, vocabulary),
                position=n_before + np.arange(len(own), dtype=np.int32) if part else None,
                generated=None if tokens.prompt else tokens.step,
            )
        )
    return found
