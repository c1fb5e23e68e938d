"""Damage of a cell: KL divergence of the next-token distribution on unrelated prompts.

KL(unsteered || steered) in nats of the next-token distribution, over the whole vocabulary, at the last token of prompts that
have nothing to do with the task: after it a model writes, and steering the tokens before it reaches it. Log softmax and sum are
taken in float32. Prompts of a multimodal model come with drawn pictures, so that there are image tokens to steer; those of a
text model are bare sentences, whose first token (an attention sink) is left alone.

All cells branch from one unsteered pass per batch of prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch

from steercache.benchmarks.task import PREFIXES
from steercache.core.damage import Damage
from steercache.core.examples import EncodedSample, Example, ImageRef
from steercache.data.scenes import SceneExample, make_example
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.queries.token_clause import TokenClause
from steercache.steering.branch import BranchOptions, branch_from
from steercache.steering.cells import BranchCell
from steercache.steering.effect_inputs import NEUTRAL, EffectInputs, prompt_inputs, sample_inputs
from steercache.steering.groups import options_beside
from steercache.steering.neutral import CAPTIONS, PROMPTS
from steercache.steering.prefill import Prefill, run_prefill
from steercache.steering.stack import MIB
from steercache.steering.targets import TargetLike
from steercache.trace.encode import encode_example

SEED: Final = 9_100_007  # of the pictures; no question is asked about them anywhere else


def damage_of(
    loaded: LoadedModel, cells: Sequence[BranchCell], inputs: EffectInputs, *, memory_mib: int = 1024
) -> dict[str, Damage]:
    """What each cell does to the next token of every input, by the cell's key.

    Raises:
        UsageError: a layer that the model lacks, a vector of another width, a target that hits nothing;
        BudgetError: one batch of inputs does not fit into the memory.
    """
    if not cells:
        return {}
    nats: dict[str, list[float]] = {cell.key: [] for cell in cells}
    layers = sorted({layer for cell in cells for layer in cell.reads})
    for batch in inputs.batches():
        prefill = run_prefill(loaded, batch, layers=layers)
        options = options_beside(prefill, BranchOptions(max_new_tokens=1, memory_budget_bytes=memory_mib * MIB))
        assert prefill.logits_bv is not None
        for answers in branch_from(prefill, _placed(prefill, cells, skip_first=inputs.skip_first), options):
            moved_b = kl_nats(prefill.logits_bv, answers.logits_bv)
            nats[answers.key] += torch.where(answers.finite_b & moved_b.isfinite(), moved_b, torch.nan).tolist()
    return {key: _damage(some) for key, some in nats.items()}


def _damage(nats: Sequence[float]) -> Damage:
    """Of every prompt's KL, NaN where its forward pass overflowed."""
    known = [x for x in nats if not math.isnan(x)]
    n_failed = len(nats) - len(known)
    if not known:
        return Damage(mean_nats=math.nan, max_nats=math.nan, n=0, n_failed=n_failed)
    return Damage(mean_nats=sum(known) / len(known), max_nats=max(known), n=len(known), n_failed=n_failed)


@torch.inference_mode()
def kl_nats(before_bv: torch.Tensor, after_bv: torch.Tensor) -> torch.Tensor:
    """KL(before || after) of the distributions of logits (b, vocabulary), (b,), never below 0."""
    log_p, log_q = (x.to(torch.promote_types(x.dtype, torch.float32)).log_softmax(-1) for x in (before_bv, after_bv))
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)  # rounding alone can go below


def neutral_inputs(loaded: LoadedModel, *, tokens_per_batch: int = 4096) -> EffectInputs:
    """The shipped prompts: captions beside drawn pictures for a multimodal model, beginnings of sentences for a text model."""
    if loaded.family.modality != "image":
        return prompt_inputs(loaded, PROMPTS)
    samples = neutral_samples(loaded.bundle)
    inputs, _ = sample_inputs(loaded, samples, split=NEUTRAL, tokens_per_batch=tokens_per_batch)
    return inputs


def neutral_samples(bundle: TokenizerBundle) -> tuple[EncodedSample, ...]:
    """The same prompts, encoded."""
    if bundle.family.modality == "image":
        examples = [_beside_picture(i, text, bundle) for i, text in enumerate(CAPTIONS)]
    else:
        examples = [Example(dataset=NEUTRAL, place=f"prompt {i}", text=text) for i, text in enumerate(PROMPTS, start=1)]
    return tuple(encode_example(example, bundle) for example in examples)


def _beside_picture(i: int, text: str, bundle: TokenizerBundle) -> Example:
    """A caption's prompt beside a picture, in the form that the model's family was trained on."""
    scene = make_example(SEED, 2 * i)  # two questions a picture: every second one is another picture
    prefix = PREFIXES.get(bundle.family.name)
    has_template = getattr(bundle.processor, "chat_template", None) or bundle.tokenizer.chat_template
    return Example(
        dataset=NEUTRAL,
        place=f"caption {i + 1}",
        text=(prefix or "") + text,
        chat=prefix is None and bool(has_template),
        images=(ImageRef(name=scene.filename, load=partial(SceneExample.png, scene)),),
    )


def _placed(prefill: Prefill, cells: Sequence[BranchCell], *, skip_first: bool) -> Sequence[BranchCell]:
    """The cells, with targets that leave the first token of every prompt out where it is to be left alone."""
    if not skip_first:
        return cells
    by_text: Mapping[str, torch.Tensor] = {
        str(target): prefill.mask_of(target, skip_first=True)
        for target in {one.target for cell in cells for one in cell.parts if isinstance(one.target, str | TokenClause)}
    }

    def placed(target: TargetLike) -> TargetLike:
        return by_text.get(str(target), target)

    return [
        replace(c, target=placed(c.target), rest=tuple(replace(one, target=placed(one.target)) for one in c.rest))
        for c in cells
    ]
