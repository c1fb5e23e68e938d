"""Greedy continuations with and without a vector.

Greedy means greedy: penalties, beams, sampling, forced tokens or several sequences that a checkpoint's generation config asks
for play no part, here as in evaluations. Of that file only the token ids that end a text are read.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig

from steercache.core.examples import EncodedSample
from steercache.core.operations import read_operation
from steercache.core.trials import AlphaUnit
from steercache.core.vectors import SteeringVector
from steercache.models.ends import end_ids
from steercache.models.family import find_module
from steercache.models.rope import forget_lengths, length_rule
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import TokenClause
from steercache.steering.add import adds_finitely
from steercache.steering.cells import NOT_FINITE, finite_rows
from steercache.steering.clause_masks import PlannedTarget
from steercache.steering.live import resolved, steer
from steercache.steering.operations.change import change_of
from steercache.steering.plan_target import plan_samples, report_missed
from steercache.steering.prompts import encode_prompts, encode_texts
from steercache.steering.targets import TargetLike
from steercache.steering.token_rule import When
from steercache.trace.batches import group_by_rule


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringSetting:
    """Where a vector is added, how much, and to which tokens; of generated ones to the first `n_generated` (None: all)."""

    layer: int
    alpha: float
    alpha_unit: AlphaUnit = "raw"
    target: TargetLike = "all"
    when: When = "prefill"
    skip_first: bool = False
    operation: str = "add"
    n_generated: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What the model wrote at one strength; `error` says why the text means nothing (None: it does)."""

    alpha: float
    text: str
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """One prompt and its continuations, in the order of the settings."""

    prompt: str
    continuations: tuple[Continuation, ...]

    def __str__(self) -> str:
        """The prompt, then one line per strength.

        >>> print(SideBySide(prompt="I feel", continuations=(Continuation(alpha=0.0, text=" well.\\nYou?"),)))
        I feel
          alpha 0: ' well.\\nYou?'
        """
        lines = [
            f"  alpha {c.alpha:g}: {c.text!r}" if c.error is None else f"  alpha {c.alpha:g}: failed: {c.error}"
            for c in self.continuations
        ]
        return "\n".join([self.prompt, *lines])


def generate_side_by_side(
    loaded: LoadedModel,
    vector: SteeringVector,
    prompts: Sequence[str],
    *,
    settings: Sequence[SteeringSetting],
    max_new_tokens: int = 20,
    chat: bool = False,
) -> list[SideBySide]:
    """Continue every prompt greedily under every setting (alpha 0: the model itself), prompts batched.

    Raises:
        UsageError: as `steer.live.steer`, or an empty prompt.
    """
    samples = encode_texts(loaded.bundle, prompts, chat=chat)
    settings = _planned(loaded, vector, settings, samples)
    lengths = [sample.n_tokens for sample in samples]
    texts: list[list[Continuation]] = [[] for _ in prompts]
    for group in group_by_rule(lengths, length_rule(loaded.bundle, n_new=max_new_tokens)):
        batch = encode_prompts(loaded, [prompts[i] for i in group], chat=chat)
        for setting in settings:
            written = _written(loaded, vector, batch, setting, max_new_tokens=max_new_tokens)
            for i, one in zip(group, written, strict=True):
                texts[i].append(one)
    return [SideBySide(prompt=p, continuations=tuple(t)) for p, t in zip(prompts, texts, strict=True)]


def _planned(
    loaded: LoadedModel,
    vector: SteeringVector,
    settings: Sequence[SteeringSetting],
    samples: Sequence[EncodedSample],
) -> list[SteeringSetting]:
    """The settings with targets written as SQL planned over the prompts, each once. Warns of prompts of which nothing is
    selected.

    Raises:
        UsageError: nothing is selected of any prompt, and no activation decides that.
    """
    plans: dict[str, PlannedTarget] = {}
    found = []
    for setting in settings:
        target = resolved(setting.target, vector)
        if isinstance(target, TokenClause) and setting.alpha != 0:
            if str(target) not in plans:
                plans[str(target)] = replace(plan_samples(loaded, target, samples), may_miss=True)
                if setting.when != "generated":
                    report_missed(plans[str(target)], samples)
            target = plans[str(target)]
        found.append(replace(setting, target=target))
    return found


@torch.inference_mode()
def _written(
    loaded: LoadedModel,
    vector: SteeringVector,
    batch: Mapping[str, torch.Tensor],
    setting: SteeringSetting,
    *,
    max_new_tokens: int,
) -> list[Continuation]:
    """What the model writes after each prompt of a batch under one setting."""
    forget_lengths(loaded)
    operation = read_operation(setting.operation)
    change = change_of(vector, setting.layer, alpha=setting.alpha, alpha_unit=setting.alpha_unit, operation=operation)
    finite = bool(adds_finitely(torch.from_numpy(change.delta_d)))
    with (
        greedy(loaded),
        watched(loaded, len(batch["input_ids"])) as finite_b,
        steer(
            loaded,
            vector,
            layer=setting.layer,
            alpha=setting.alpha,
            alpha_unit=setting.alpha_unit,
            operation=operation,
            target=setting.target,
            when=setting.when,
            skip_first=setting.skip_first,
            n_generated=setting.n_generated,
        ),
    ):
        ids = loaded.model.generate(**batch, max_new_tokens=max_new_tokens)
    new = ids[:, batch["input_ids"].shape[1] :]
    texts = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [
        Continuation(alpha=setting.alpha, text=text, error=None if finite and fine else NOT_FINITE)
        for text, fine in zip(texts, finite_b.tolist(), strict=True)
    ]


@contextmanager
def greedy(loaded: LoadedModel) -> Iterator[None]:
    """Inside, `loaded.model.generate` decodes greedily, whatever the checkpoint's generation config says."""
    model: Any = loaded.model
    own = model.generation_config
    ends = sorted(end_ids(loaded))
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        bos_token_id=getattr(loaded.tokenizer, "bos_token_id", None),
        eos_token_id=ends or None,
        pad_token_id=_pad_id(loaded),
    )
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def watched(loaded: LoadedModel, n_seq: int) -> Iterator[torch.Tensor]:
    """Yields (b,) flags that turn False for sequences of which some step overflows."""
    finite_b = torch.ones(n_seq, dtype=torch.bool, device=loaded.model.device)

    hidden: list[torch.Tensor] = []

    def keep(module: Any, args: Any) -> None:
        hidden[:] = [args[0][:, -1]]

    def look(module: Any, args: Any, logits_btv: torch.Tensor) -> None:
        finite_b.logical_and_(finite_rows(logits_btv[:, -1], hidden[0]).to(finite_b.device))

    norm, head = (find_module(loaded.model, path) for path in (loaded.family.final_norm, loaded.family.lm_head))
    handles = [norm.register_forward_pre_hook(keep), head.register_forward_hook(look)]
    try:
        yield finite_b
    finally:
        for handle in handles:
            handle.remove()


def _pad_id(loaded: LoadedModel) -> int:
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        value = getattr(loaded.tokenizer, name, None)
        if value is not None:
            return int(value)
    return 0
