"""How many cells run side by side: memory per sequence, and cells grouped so that a stack wastes nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from steercache.core.errors import BudgetError
from steercache.steering.prefill import Prefill

MIB = 2**20
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Bytes of one sequence: while its blocks run, and while it waits to be decoded."""

    run_bytes: int
    wait_bytes: int


def costs_of(prefill: Prefill, *, start: int, max_new_tokens: int) -> Costs:
    """An upper estimate from the model's sizes: what a block and the head hold at once, and keys, values and logits."""
    config = prefill.parts.model.config.get_text_config()
    item = prefill.dtype.itemsize
    n_all, n_run = prefill.prompts.n_tokens, prefill.prompts.n_tokens - start
    heads = config.num_attention_heads
    width = heads * (_widest(config, "head_dim") or config.hidden_size // heads)
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    inner = max(inner) if isinstance(inner, list | tuple) else inner  # Gemma 3n: one for each block
    attention = 3 * width * n_run + 4 * width * n_all
    scores = n_run * n_all * (heads * (item + 8) if config._attn_implementation == "eager" else 8)
    n_streams = int(getattr(config, "altup_num_inputs", 1))
    block = item * ((2 + 4 * n_streams) * config.hidden_size * n_run + max(attention, 4 * inner * n_run)) + scores
    pair = 2 * (_widest(config, "num_key_value_heads") or heads) * (width // heads) * item
    logits = int(config.vocab_size) * (item + 8)
    wait = pair * prefill.n_layers * (n_all + max_new_tokens) * 2 if max_new_tokens > 1 else 0
    return Costs(run_bytes=block + pair * n_all * 2 + logits, wait_bytes=wait + logits)


def _widest(config: Any, name: str) -> int:
    """A size of a model's blocks, the largest where they differ (Gemma 4); 0 where its configuration has no such size."""
    differs = config.is_heterogeneous and name in config.per_layer_attributes
    return max(int(getattr(one, name, None) or 0) for one in (config.per_layer_config if differs else [config]))


def copies_that_fit(costs: Costs, *, n_seq: int, budget_bytes: int) -> int:
    """Cells of one stack. Half of the budget is for the stack that runs, half for those that wait.

    Raises:
        BudgetError: not even one cell fits.
    """
    if n_seq * (costs.run_bytes + costs.wait_bytes) > budget_bytes:
        raise BudgetError(
            f"one cell over {n_seq} samples needs about {n_seq * (costs.run_bytes + costs.wait_bytes) // MIB + 1} MiB, "
            f"the budget is {budget_bytes // MIB} MiB",
            hint="fewer tokens per batch, or more memory",
        )
    return max(1, budget_bytes // 2 // (n_seq * (costs.run_bytes + costs.wait_bytes)))


def stacks(members: Sequence[T], *, size: int) -> Iterator[Sequence[T]]:
    """Members in order, as few stacks of at most `size` as there can be, of equal size but for one."""
    n_stacks = -(-len(members) // size)
    per_stack = -(-len(members) // max(1, n_stacks))
    for at in range(0, len(members), max(1, per_stack)):
        yield members[at : at + per_stack]
