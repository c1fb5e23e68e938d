"""Which tokens of a pass are steered, while it runs."""

from dataclasses import dataclass
from typing import Literal

import torch

from steercache.core.errors import UsageError
from steercache.steering.clause_masks import PlannedTarget, clause_of
from steercache.steering.targets import ForwardTokens, TargetLike, Vocabulary, refuse_missed, target_mask

When = Literal["prefill", "generated", "every"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRule:
    """Which tokens are steered: `target` of the prompt, of the generated ones or of both (`when`), the first one left out or
    not, of the generated ones the first `n_generated` (None: all). With `masked`, a batch has to say what is padding where the
    target depends on it."""

    target: TargetLike = "all"
    when: When = "prefill"
    skip_first: bool = False
    masked: bool = False
    n_generated: int | None = None

    def mask(self, tokens: ForwardTokens, vocabulary: Vocabulary) -> torch.Tensor:
        """The rows of a pass, or of a part of it, that are steered; bool of shape (b, t)."""
        if self.when != "every" and tokens.prompt != (self.when == "prefill"):
            return torch.zeros_like(tokens.real_bt)
        if self.n_generated is not None and tokens.step is not None and tokens.step >= self.n_generated:
            return torch.zeros_like(tokens.real_bt)
        clause = clause_of(self.target)
        if self.masked and not tokens.padding_known and (clause or self.target in ("last", "text", "both")):
            raise UsageError(
                f"the target {clause or self.target} needs to know which tokens of the batch are padding, "
                "and it has no attention mask",
                hint="pass the tokenizer's attention_mask, run one sequence at a time, or choose the target all",
            )
        mask_bt = target_mask(self.target, tokens, vocabulary=vocabulary, skip_first=self.skip_first)
        may_miss = isinstance(self.target, PlannedTarget) and self.target.may_miss
        if clause is not None and tokens.prompt and not clause.layers and not may_miss:
            refuse_missed(self.target, mask_bt)  # a condition on activations may be met nowhere
        return mask_bt
