"""How far apart two logits may be before another batch composition can swap them: measured on the model itself.

The same prompts run one at a time, together, several times over, and padded to several widths; what counts is the largest
change of a difference between two of the best tokens' float32 logits, times `SAFETY`. One definition of a near-tie for every
place that shows answers: a gap of at most this.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.examples import EncodedSample
from steercache.models.rope import length_rule
from steercache.models.spec import LoadedModel
from steercache.steering.forward import exact_logits
from steercache.steering.prefill import run_prefill
from steercache.trace.batches import most_that_share, pad_batch, share_a_batch

N_SAMPLES: Final = 8
N_TOKENS: Final = 8  # the best ones of each prompt: what an answer can be
WIDER: Final = (5, 16, 33)  # columns of padding: kernels of attention change with the width
TIMES: Final = 3  # cells run stacked
SAFETY: Final = 2.0  # prompts and compositions that were not measured


@torch.inference_mode()
def measure_tie_nats(loaded: LoadedModel, samples: Sequence[EncodedSample]) -> float | None:
    """The tolerance in nats (differences of logits are differences of log probabilities), from the first `N_SAMPLES` samples,
    or those of them that may share a batch; None where logits cannot be made from the last block's output alone."""
    rule = length_rule(loaded.bundle)
    some = most_that_share(samples[:N_SAMPLES], rule)
    alone = [_last_rows(loaded, [sample]) for sample in some]
    rows = [one[0] for one in alone if one is not None]
    logits = [one[1] for one in alone if one is not None]
    if not rows or len(rows) < len(some):
        return None
    ids_bk = torch.cat(logits).topk(min(N_TOKENS, logits[0].shape[-1]), dim=-1).indices
    exact_bk = exact_logits(loaded, torch.cat(rows), ids_bk)
    rounding = 4 * torch.finfo(exact_bk.dtype).eps * float(exact_bk.abs().amax())
    changes = [rounding]
    for others in ([], some * (TIMES - 1), *([_longer(max(some, key=lambda s: s.n_tokens), n)] for n in WIDER)):
        if not share_a_batch([sample.n_tokens for sample in (*some, *others)], rule):
            continue  # such batches are never run
        found = _last_rows(loaded, [*some, *others])
        assert found is not None
        change_bk = exact_logits(loaded, found[0][: len(some)], ids_bk) - exact_bk
        changes.append(float((change_bk.amax(1) - change_bk.amin(1)).amax()))
    return SAFETY * max(changes)


def _longer(sample: EncodedSample, n: int) -> EncodedSample:
    """The sample with its last token n times more, to make a batch wider."""

    def stretched(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate([values, np.repeat(values[-1:], n, axis=0)])

    n_tokens = sample.n_tokens
    per_token: dict[str, Any] = {
        f.name: stretched(values)
        for f in fields(sample)
        if isinstance(values := getattr(sample, f.name), np.ndarray) and len(values) == n_tokens
    }
    per_token["extra"] = {name: stretched(values) for name, values in sample.extra.items()}
    return replace(sample, **per_token)


def _last_rows(loaded: LoadedModel, samples: Sequence[EncodedSample]) -> tuple[torch.Tensor, torch.Tensor] | None:
    batch = pad_batch(samples, padding_side="left", pad_id=loaded.pad_id)
    prefill = run_prefill(loaded, batch, layers=[])
    if prefill.obstacle is not None or prefill.logits_bv is None or prefill.last is None:
        return None
    return prefill.prompts.last_rows(prefill.last), prefill.logits_bv
