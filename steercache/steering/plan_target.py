"""Targets written as SQL, planned over encoded prompts before the pass that they steer."""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import SteercacheWarning, UsageError
from steercache.core.examples import EncodedSample
from steercache.models.rope import length_rule
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import TokenClause, plan_tokens
from steercache.queries.token_table import facts_of
from steercache.steering.clause_masks import PlannedTarget, ids_key
from steercache.steering.parts import parts_of
from steercache.steering.prefill import BlockTape, check_layers, read_prompts
from steercache.trace.batches import pad_batch, plan_batches


def plan_samples(
    loaded: LoadedModel, target: TokenClause, samples: Sequence[EncodedSample], *, tokens_per_batch: int = 4096
) -> PlannedTarget:
    """The tokens that a target selects of every sample. A condition on activations takes an unsteered pass of the model.

    Raises:
        QueryError: a column that there is not, a condition that is not true or false. UsageError: a layer that the model lacks,
            or prompts that only their pictures tell apart, of which different tokens are selected.
    """
    weights: dict[bytes, npt.NDArray[np.float32]] = {}
    for part, outputs in _parts(loaded, target, samples, tokens_per_batch=tokens_per_batch):

        def rows_at(
            layer: int, rows: npt.NDArray[np.int64], outputs: dict[int, npt.NDArray[np.float32]] = outputs
        ) -> npt.NDArray[np.float32]:
            return outputs[layer][rows]

        facts = [facts_of(sample) for sample in part]
        found = plan_tokens(target, facts, tokenizer=loaded.tokenizer, rows_at=rows_at if outputs else None)
        for sample, one in zip(part, found, strict=True):
            known = weights.setdefault(ids_key(sample.input_ids), one)
            if not target.layers and not np.array_equal(known, one):  # activations of equal prompts differ by rounding
                raise UsageError(
                    "the target selects different tokens of two prompts of equal token ids, which a pass cannot tell apart",
                    place=str(target),
                    hint="plan and steer such prompts (other pictures under one text) one at a time",
                )
    return PlannedTarget(clause=target, weights=weights)


def _parts(
    loaded: LoadedModel, target: TokenClause, samples: Sequence[EncodedSample], *, tokens_per_batch: int
) -> Iterator[tuple[Sequence[EncodedSample], dict[int, npt.NDArray[np.float32]]]]:
    """Samples, and by layer the hidden states of their tokens one after another; all at once where nothing is looked at."""
    if not target.layers:
        yield samples, {}
        return
    lengths = [sample.n_tokens for sample in samples]
    for members in plan_batches(lengths, tokens_per_batch=tokens_per_batch, rule=length_rule(loaded.bundle)):
        part = [samples[i] for i in members]
        yield part, _unsteered(loaded, part, target.layers)


@torch.inference_mode()
def _unsteered(
    loaded: LoadedModel, samples: Sequence[EncodedSample], layers: Sequence[int]
) -> dict[int, npt.NDArray[np.float32]]:
    parts = parts_of(loaded)
    check_layers(parts, layers)
    prompts = read_prompts(loaded, pad_batch(samples, padding_side="left", pad_id=loaded.pad_id))
    with BlockTape(parts, keep={*layers}) as tape:
        parts.model(**prompts.inputs, use_cache=False, logits_to_keep=prompts.columns)
    real_bt = prompts.tokens.real_bt
    return {
        layer: tape.outputs[layer][real_bt.to(tape.outputs[layer].device)].float().cpu().numpy() for layer in layers
    }


class UnsteeredPromptWarning(SteercacheWarning):
    """A target selects no token of some of the prompts, so these are not steered."""


def report_missed(target: PlannedTarget, samples: Sequence[EncodedSample]) -> None:
    """Warn (`UnsteeredPromptWarning`) of prompts of which a target selects nothing.

    Raises:
        UsageError: it selects nothing of any prompt, and no activation decides that.
    """
    missed = [number for number, n in enumerate(n_selected(target, samples), start=1) if n == 0]
    if len(missed) == len(samples) and not target.clause.layers:
        raise UsageError("the target selects no token of any prompt", place=str(target.clause))
    if missed:
        some = ", ".join(map(str, missed[:8])) + (", ..." if len(missed) > 8 else "")
        warnings.warn(
            f"{target.clause}: no token of {len(missed)} of {len(samples)} prompts, which are not steered (number {some})",
            UnsteeredPromptWarning,
            stacklevel=4,
        )


def n_selected(target: PlannedTarget, samples: Sequence[EncodedSample]) -> list[int]:
    """How many tokens are selected of every sample; of what 0 is, nothing is steered."""
    return [int((target.weights[ids_key(sample.input_ids)] != 0).sum()) for sample in samples]
