"""How the answer's margin hangs on the hidden states: the gradients that a screening multiplies with vectors.

Margin of an option (`MARGIN`, part of a gradient run's identity): log p(its first token) minus the mean of log p of the other
options, at the last prompt token; of an option alone, its log odds. It is linear in the options' log probabilities, so that
every difference between two options, hence right against best wrong at any strength, follows from it exactly:
log p(i) - log p(j) = (margin i - margin j) (k - 1) / k. The margins of k options sum to 0, so k - 1 backward passes do.
In half precision the options' logits are made in float32 from the last block's output, as everywhere (`forward.exact_logits`).

Rows of a gradient run (row kind `sample_target`, site `margin_grad`, float32): sample after sample, target after target,
option after option (`gradient_rows`); layers are the store's own axis.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.models.quantised_modules import gradient_obstacle
from steercache.models.spec import LoadedModel
from steercache.models.streams import hidden_of, merged, with_hidden
from steercache.steering.clause_masks import layers_of
from steercache.steering.forward import exact_logits, head_logits
from steercache.steering.parts import ModelParts, parts_of
from steercache.steering.prefill import Prompts, check_layers, read_prompts
from steercache.steering.targets import TargetLike, target_mask
from steercache.trace.batches import PaddedBatch

MARGIN = "log p(option) - mean log p(other options)"
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginGradients:
    """Gradients of a batch, summed over the target's tokens, times their weights where they have some: `values` (layer, sample,
    target, option, d).

    `margins` (sample, option) are the unsteered margins. Options that a sample does not have are NaN in both. A target that
    hits nothing in a sample has gradient 0 there; `n_steered` (sample, target) counts its tokens, `row_norms` (layer, sample,
    target) is the median norm of their hidden states without that of the first position, an attention sink (NaN for none).
    """

    layers: tuple[int, ...]
    targets: tuple[str, ...]
    values: Float32Array = field(repr=False)
    margins: Float32Array
    n_steered: npt.NDArray[np.int32]
    row_norms: Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientRows:
    """The same as rows of a store: `values` (layer, row, d); per row its sample in the batch, target, option and margin, how
    many tokens its target hits, and the median norm of their hidden states, `row_norms` (layer, row)."""

    values: Float32Array = field(repr=False)
    sample: npt.NDArray[np.int32]
    target: npt.NDArray[np.int32]
    option: npt.NDArray[np.int32]
    margin: Float32Array
    n_steered: npt.NDArray[np.int32]
    row_norms: Float32Array


def margin_gradients(
    loaded: LoadedModel,
    batch: PaddedBatch,
    options: Sequence[Sequence[int]],
    *,
    layers: Sequence[int],
    targets: Mapping[str, TargetLike],
) -> MarginGradients:
    """One forward pass and a backward pass per option but one, for all layers and targets at once.

    `options` has, per sample, the first token of each answer option; samples may have different numbers of them.

    Raises:
        UsageError: a layer or a token that the model does not have, a sample without options or with one twice, a target
            that hits nothing in the whole batch, a forward pass that is not finite, quantised weights without a gradient.
    """
    parts = parts_of(loaded)
    check_layers(parts, layers)
    _check_modules(loaded)
    with torch.inference_mode(False), torch.enable_grad():
        prompts = read_prompts(loaded, batch)
        vocab_size = int(loaded.config.get_text_config().vocab_size)
        ids_bk = _option_ids(options, n_seq=prompts.n_seq, n_vocabulary=vocab_size, device=prompts.last_b.device)
        looked_at = {layer for target in targets.values() for layer in layers_of(target)}
        with _Leaves(parts, layers, looked_at) as leaves:
            out = parts.model(**prompts.inputs, use_cache=False, logits_to_keep=prompts.columns)
        tokens = replace(prompts.tokens, outputs=lambda layer: leaves.outputs[layer])
        masks = [target_mask(target, tokens, vocabulary=parts.vocabulary) for target in targets.values()]
        masks_bqt = torch.stack(masks if len({x.dtype for x in masks}) == 1 else [x.float() for x in masks], dim=1)
        last = leaves.last
        assert last is not None
        exact_bk = _exact(loaded, prompts, last, out.logits, ids_bk)
        margins_bk = option_margins(prompts.at_last(out.logits), ids_bk, exact_bk)
        _check_finite(margins_bk, ids_bk, dtype=last.dtype)
        outputs = [leaves.outputs[layer] for layer in layers]
        values = _backward(margins_bk, outputs, masks_bqt)
    return MarginGradients(
        layers=tuple(layers),
        targets=tuple(targets),
        values=values.float().cpu().numpy(),
        margins=margins_bk.detach().float().cpu().numpy(),
        n_steered=(masks_bqt != 0).sum(2).int().cpu().numpy(),
        row_norms=median_norms(outputs, (masks_bqt != 0) & ~prompts.tokens.first_bt[:, None]),
    )


def _check_modules(loaded: LoadedModel) -> None:
    """Without this, what is left where a kernel has no backward pass is the residual stream's own gradient."""
    if loaded.spec.quantised is None:
        return
    obstacle = gradient_obstacle(loaded.model, loaded.envoys)
    if obstacle is not None:
        raise UsageError(
            f"{loaded.spec.name} has no gradients: its weights are quantised ({loaded.spec.quantised.method}), and {obstacle}",
            hint="screen with the unquantised model, or compute the cells",
        )


def option_margins(logits_bv: torch.Tensor, ids_bk: torch.Tensor, exact_bk: torch.Tensor | None = None) -> torch.Tensor:
    """Margins (b, k) from first-token logits, and from `exact_bk`, those of the options in float32, where they are given; NaN
    where `ids_bk` is -1. Differentiable."""
    has_bk = ids_bk >= 0
    z_bk = logits_bv.gather(1, ids_bk.clamp(min=0)) if exact_bk is None else exact_bk
    n_b1 = has_bk.sum(1, keepdim=True)
    total_b1 = torch.where(has_bk, z_bk, 0).sum(1, keepdim=True)
    among = z_bk - (total_b1 - z_bk) / (n_b1 - 1).clamp(min=1)
    rest = logits_bv.scatter(1, ids_bk[:, :1].clamp(min=0), -torch.inf).logsumexp(1, keepdim=True)
    return torch.where(has_bk, torch.where(n_b1 > 1, among, z_bk - rest), torch.nan)


def _exact(
    loaded: LoadedModel, prompts: Prompts, last: torch.Tensor, logits: torch.Tensor, ids_bk: torch.Tensor
) -> torch.Tensor | None:
    """Logits of the options (b, k) in float32 from the last block's output; None in wider dtypes, which need no such thing, and
    where the model does more than a norm and a head."""
    if last.dtype.itemsize >= 4:
        return None
    with torch.no_grad():
        same = torch.equal(head_logits(loaded, last, keep=prompts.columns), logits)
    return exact_logits(loaded, prompts.last_rows(last), ids_bk.clamp(min=0)) if same else None


def _check_finite(margins_bk: torch.Tensor, ids_bk: torch.Tensor, *, dtype: torch.dtype) -> None:
    broken = ((ids_bk >= 0) & ~margins_bk.isfinite()).any(1).nonzero().flatten().tolist()
    if broken:
        raise UsageError(
            f"the unsteered forward pass of sample {broken[0]} of the batch is not finite in {dtype}: there is no gradient",
            hint="compute in bfloat16 or float32",
        )


def gradient_rows(gradients: MarginGradients) -> GradientRows:
    """Rows in the order in which a gradient run stores them; options that a sample does not have make no row."""
    n_targets = len(gradients.targets)
    has = np.repeat(~np.isnan(gradients.margins)[:, None], n_targets, axis=1)
    sample, target, option = (index.astype(np.int32) for index in np.nonzero(has))
    return GradientRows(
        values=np.ascontiguousarray(gradients.values[:, sample, target, option]),
        sample=sample,
        target=target,
        option=option,
        margin=gradients.margins[sample, option],
        n_steered=gradients.n_steered[sample, target],
        row_norms=gradients.row_norms[:, sample, target],
    )


def _backward(margins_bk: torch.Tensor, outputs: list[torch.Tensor], masks_bqt: torch.Tensor) -> torch.Tensor:
    """(layer, sample, target, option, d), summed in float32 or better."""
    n_options = margins_bk.shape[1]
    n_b = (~margins_bk.isnan()).sum(1)
    exact = torch.promote_types(outputs[0].dtype, torch.float32)
    size = (len(outputs), *masks_bqt.shape[:2], n_options, outputs[0].shape[-1])
    values = torch.full(size, torch.nan, dtype=exact, device=outputs[0].device)
    weights = masks_bqt.to(exact)
    for k in range(max(1, n_options - 1)):
        has_b = k < n_b
        total = torch.where(has_b, margins_bk[:, k], 0).sum()
        grads = torch.autograd.grad(total, outputs, retain_graph=k < n_options - 2)
        for i, grad in enumerate(grads):
            values[i, has_b, :, k] = (weights @ grad.to(exact))[has_b]
    for b, n in enumerate(n_b.tolist()):
        if n > 1:
            values[:, b, :, n - 1] = -values[:, b, :, : n - 1].sum(2)
    return values


def median_norms(outputs: Sequence[torch.Tensor], masks_bqt: torch.Tensor) -> Float32Array:
    """Median norm of the masked rows of every block output (b, t, d), (layer, b, target); NaN where a mask has none."""
    norms_lbt = np.stack([x.detach().float().norm(dim=-1).cpu().numpy() for x in outputs])
    masks = masks_bqt.cpu().numpy()
    found = np.full((len(outputs), *masks.shape[:2]), np.nan, dtype=np.float32)
    for b, target in zip(*np.nonzero(masks.any(axis=2)), strict=True):
        found[:, b, target] = np.median(norms_lbt[:, b, masks[b, target]], axis=1)
    return found


def _option_ids(
    options: Sequence[Sequence[int]], *, n_seq: int, n_vocabulary: int, device: torch.device
) -> torch.Tensor:
    if len(options) != n_seq:
        raise UsageError(f"options for {len(options)} samples, and the batch has {n_seq}")
    for i, ids in enumerate(options):
        if not ids or len(set(ids)) != len(ids):
            raise UsageError(
                f"sample {i} has the answer options {list(ids)}: they must begin with different tokens",
                hint="options that begin alike (A1, A2) cannot be told apart by their first token",
            )
        if min(ids) < 0 or max(ids) >= n_vocabulary:
            raise UsageError(f"sample {i} has an option token outside the vocabulary of {n_vocabulary}")
    width = max(len(ids) for ids in options)
    return torch.tensor([[*ids, *[-1] * (width - len(ids))] for ids in options], device=device)


class _Leaves:
    """Hooks that make the first wanted block's output a leaf (nothing below is differentiated) and keep the others, those of
    `others` too."""

    def __init__(self, parts: ModelParts, layers: Sequence[int], others: Collection[int] = ()) -> None:
        self.outputs: dict[int, torch.Tensor] = {}
        self.last: torch.Tensor | None = None  # what the final norm gets
        self._parts, self._layers, self._others, self._stack = parts, layers, others, ExitStack()

    def __enter__(self) -> "_Leaves":
        for layer in {*self._layers, *self._others, len(self._parts.blocks) - 1}:
            handle = self._parts.blocks[layer].register_forward_hook(self._hook(layer))
            self._stack.callback(handle.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _hook(self, layer: int) -> Any:
        def hook(module: Any, args: Any, out: Any) -> Any:
            hidden = hidden_of(out, self._parts.stream)
            if layer == min(self._layers):
                hidden = hidden.detach().requires_grad_()
            self.outputs[layer] = hidden
            handed_on = with_hidden(out, hidden, self._parts.stream)
            if layer == len(self._parts.blocks) - 1:
                self.last = merged(self._parts.decoder, hidden_of(handed_on, None), self._parts.stream)
            return handed_on

        return hook
