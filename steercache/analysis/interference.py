"""Several vectors at once: what each does alone, in pairs and all together, against the sum of what they do alone.

Of every combination the next-token distribution on a few prompts is computed under live steering, contexts nested in the order
that is given. The additive prediction of a combination adds the changes of logits that its members make alone:
z + sum_i (z_i - z). Where members do not interfere, it is what is measured.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from steercache.answers.damage import kl_nats, neutral_inputs
from steercache.cells.combinations import Steering as Steering
from steercache.core.errors import UsageError
from steercache.core.notebook import notebook_table
from steercache.models.spec import LoadedModel
from steercache.steering.effect_inputs import EffectInputs, prompt_inputs
from steercache.steering.live import steer
from steercache.steering.prefill import read_prompts
from steercache.trace.batches import PaddedBatch

MOST = 12  # members: 79 combinations


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Some members together, over all prompts.

    `nats`: mean KL of the next token from the unsteered model; `predicted_nats`: that of the additive prediction; `apart_nats`:
    mean KL of the measured distribution from the predicted one; `cosine`: of measured and predicted change of logits (centred
    over the vocabulary), mean over prompts (NaN where nothing moved).
    """

    members: tuple[str, ...]
    nats: float
    predicted_nats: float
    apart_nats: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """Every member alone, every pair, and all together, in this order, over `n_prompts` prompts."""

    rows: tuple[Combination, ...]
    n_prompts: int

    def records(self) -> list[dict[str, Any]]:
        """The rows as plain values: what a data frame is made of."""
        return [
            {
                "members": " + ".join(row.members),
                "n_members": len(row.members),
                "nats": row.nats,
                "predicted_nats": row.predicted_nats,
                "apart_nats": row.apart_nats,
                "cosine": row.cosine,
            }
            for row in self.rows
        ]

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        cells = [
            [
                " + ".join(r.members),
                f"{r.nats:.4g}",
                f"{r.predicted_nats:.4g}",
                f"{r.apart_nats:.4g}",
                f"{r.cosine:.3f}",
            ]
            for r in self.rows
        ]
        return notebook_table(["together", "KL", "KL, additive", "KL apart", "cosine"], cells)


def interference(loaded: LoadedModel, members: Sequence[Steering], *, prompts: Sequence[str] = ()) -> Interference:
    """Steer with every member alone, every pair, and all, on `prompts` (none: the unrelated ones that damage is measured on).

    Strengths in the unit "kl" have to be raw ones (`Cache.strength_at_kl`).

    Raises:
        UsageError: fewer than two members or more than `MOST`, two of one name, prompts of a multimodal model (its own come
            with pictures), a forward pass that overflows; and as `steercache.steer`.
    """
    labels = [one.label for one in members]
    if not 2 <= len(members) <= MOST:
        raise UsageError(f"{len(members)} members; interference is between 2 and {MOST}")
    if len(set(labels)) < len(labels):
        raise UsageError("two members have the same name", hint="give each a name of its own")
    if prompts and loaded.family.modality == "image":
        raise UsageError("prompts of a multimodal model come with pictures", hint="leave the prompts out")
    inputs = prompt_inputs(loaded, prompts) if prompts else neutral_inputs(loaded)
    groups = [frozenset(some) for n in sorted({1, 2, len(members)}) for some in combinations(range(len(members)), n)]
    sums = {group: [0.0, 0.0, 0.0, 0.0] for group in groups}
    for batch, plain_bv in _plain(loaded, inputs):
        alone = {}
        for group in groups:
            found_bv = _logits(loaded, batch, [members[i] for i in sorted(group)], skip_first=inputs.skip_first)
            if len(group) == 1:
                alone[next(iter(group))] = found_bv - plain_bv
            predicted_bv = plain_bv + torch.stack([alone[i] for i in sorted(group)]).sum(0)
            for at, values in enumerate(_compared(plain_bv, found_bv, predicted_bv)):
                sums[group][at] += float(values.sum())
    rows = (
        Combination(
            members=tuple(labels[i] for i in sorted(group)),
            nats=nats / inputs.n,
            predicted_nats=predicted / inputs.n,
            apart_nats=apart / inputs.n,
            cosine=cosine / inputs.n,
        )
        for group, (nats, predicted, apart, cosine) in sums.items()
    )
    return Interference(rows=tuple(rows), n_prompts=inputs.n)


def _compared(plain_bv: torch.Tensor, found_bv: torch.Tensor, predicted_bv: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of every prompt: KL, predicted KL, KL apart, cosine of the changes."""
    changes = [x - plain_bv for x in (found_bv, predicted_bv)]
    centred = [x - x.mean(-1, keepdim=True) for x in changes]
    cosine_b = (centred[0] * centred[1]).sum(-1) / (centred[0].norm(dim=-1) * centred[1].norm(dim=-1))
    pairs = ((plain_bv, found_bv), (plain_bv, predicted_bv), (predicted_bv, found_bv))
    return (*(kl_nats(a, b) for a, b in pairs), cosine_b)


def _plain(loaded: LoadedModel, inputs: EffectInputs) -> Iterator[tuple[PaddedBatch, torch.Tensor]]:
    for batch in inputs.batches():
        yield batch, _logits(loaded, batch, (), skip_first=inputs.skip_first)


@torch.inference_mode()
def _logits(loaded: LoadedModel, batch: PaddedBatch, members: Sequence[Steering], *, skip_first: bool) -> torch.Tensor:
    """Logits after every prompt's last token (b, vocabulary), float64, under these members."""
    prompts = read_prompts(loaded, batch)
    with ExitStack() as stack:
        for one in members:
            stack.enter_context(
                steer(
                    loaded,
                    one.vector,
                    layer=one.layer,
                    alpha=one.alpha,
                    alpha_unit=one.alpha_unit,
                    operation=one.operation,
                    target=one.target,
                    place=one.place,
                    skip_first=skip_first,
                )
            )
        out = loaded.model(**prompts.inputs, use_cache=False, logits_to_keep=prompts.columns)
    logits_bv = prompts.at_last(out.logits).double()
    if not bool(logits_bv.isfinite().all()):
        named = " + ".join(one.label for one in members) or "the unsteered model"
        raise UsageError(f"the forward pass of {named} overflows", hint="smaller strengths, or another dtype")
    return logits_bv
