"""Greedy continuations with and without a vector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from steercache.core.trials import AlphaUnit
from steercache.core.vectors import SteeringVector
from steercache.models.rope import forget_lengths, length_rule
from steercache.models.spec import LoadedModel
from steercache.steering.live import When, steer
from steercache.steering.prompts import encode_prompts, encode_texts
from steercache.steering.targets import TargetLike
from steercache.trace.batches import group_by_rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a vector is added, how much, and to which tokens."""

    layer: int
    alpha: float
    alpha_unit: AlphaUnit = "raw"
    target: TargetLike = "all"
    when: When = "prefill"
    skip_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What the model wrote at one strength."""

    alpha: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """One prompt and its continuations, in the order of the settings."""

    prompt: str
    continuations: tuple[Continuation, ...]


def generate_side_by_side(
    loaded: LoadedModel,
    vector: SteeringVector,
    prompts: Sequence[str],
    *,
    settings: Sequence[Setting],
    max_new_tokens: int = 20,
    chat: bool = False,
) -> list[SideBySide]:
    """Continue every prompt greedily under every setting (alpha 0: the model itself), prompts batched.

    Raises:
        UsageError: as `steer.live.steer`, or an empty prompt.
    """
    lengths = [sample.n_tokens for sample in encode_texts(loaded.bundle, prompts, chat=chat)]
    texts: list[list[Continuation]] = [[] for _ in prompts]
    for group in group_by_rule(lengths, length_rule(loaded.bundle, n_new=max_new_tokens)):
        batch = encode_prompts(loaded, [prompts[i] for i in group], chat=chat)
        for setting in settings:
            written = _written(loaded, vector, batch, setting, max_new_tokens=max_new_tokens)
            for i, text in zip(group, written, strict=True):
                texts[i].append(Continuation(alpha=setting.alpha, text=text))
    return [SideBySide(prompt=p, continuations=tuple(t)) for p, t in zip(prompts, texts, strict=True)]


@torch.inference_mode()
def _written(
    loaded: LoadedModel,
    vector: SteeringVector,
    batch: Mapping[str, torch.Tensor],
    setting: Setting,
    *,
    max_new_tokens: int,
) -> list[str]:
    """What the model writes after each prompt of a batch under one setting."""
    forget_lengths(loaded)
    with steer(
        loaded,
        vector,
        layer=setting.layer,
        alpha=setting.alpha,
        alpha_unit=setting.alpha_unit,
        target=setting.target,
        when=setting.when,
        skip_first=setting.skip_first,
    ):
        ids = loaded.model.generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=_pad_id(loaded)
        )
    new = ids[:, batch["input_ids"].shape[1] :]
    texts: list[str] = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def _pad_id(loaded: LoadedModel) -> int:
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        value = getattr(loaded.tokenizer, name, None)
        if value is not None:
            return int(value)
    return 0
