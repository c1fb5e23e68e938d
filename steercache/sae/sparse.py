"""Rows to the features that fire in them, with sae-lens' numbers and fewer passes over memory.

sae-lens returns a dense array (n, s), of which some in a hundred or fewer are not zero, and on its way there makes five more of
that size. For the common kinds of SAE the pre-activations are computed by the operations of sae-lens' own `encode`, into an
array that is used again for every batch, and what fires is read off them: the values are the same bit for bit. Every other
kind, and a module with hooks on it, goes through its own `encode`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from steercache.cache.feature_rows import Entries
from steercache.sae.loaded import LoadedSae

if TYPE_CHECKING:
    import torch

BUFFER_FLOATS: Final = 2**23  # of one batch's pre-activations: 32 MiB
LEAST_ROWS, MOST_ROWS = 128, 4096
Triples = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]  # flat places in (n, s), ascending, and values


def batch_rows(d_sae: int) -> int:
    """Rows encoded at once: as many as keep one batch's pre-activations in `BUFFER_FLOATS`, within bounds.

    >>> batch_rows(4608), batch_rows(16_384), batch_rows(1_000_000)
    (1820, 512, 128)
    """
    return min(MOST_ROWS, max(LEAST_ROWS, BUFFER_FLOATS // d_sae))


class SparseEncoder:
    """Encodes batches of rows with one SAE; not for several threads at once, since batches share their memory."""

    def __init__(self, sae: LoadedSae) -> None:
        self._sae = sae
        self._n_features = sae.spec.d_sae
        self._buffers: dict[int, Any] = {}
        self._fires = _reader_of(sae.module, self)

    @property
    def n_features(self) -> int:
        """Features of the SAE."""
        return self._n_features

    def __call__(self, x: "torch.Tensor", *, first_slot: int = 0) -> Entries:
        """What fires in the rows `x` (n, d), float32 on the CPU; row i of them is slot `first_slot + i`."""
        import torch

        with torch.inference_mode():
            flat, value = self._fires(x.to(self._sae.module.device))
        slot, feature = np.divmod(flat, self._n_features)
        return Entries(
            slot=(slot + first_slot).astype(np.int32),
            feature=feature.astype(np.int32),
            value=np.ascontiguousarray(value),
        )

    def pre_activations(self, x: "torch.Tensor") -> "torch.Tensor":
        """sae-lens' pre-activations (n, s) of the rows, by its operations in its order; overwritten by the next call."""
        import torch

        module = self._sae.module
        sae_in = module.process_sae_in(x)
        if len(x) not in self._buffers:
            self._buffers = {len(x): torch.empty((len(x), self._n_features), dtype=module.dtype, device=module.device)}
        pre = torch.mm(sae_in, module.W_enc, out=self._buffers[len(x)])
        pre += module.b_enc
        return pre


def _reader_of(module: Any, encoder: SparseEncoder) -> Callable[["torch.Tensor"], Triples]:
    """How to read off what fires, by the module's own class: a subclass may compute otherwise."""
    import torch
    from torch import nn

    from steercache.sae.library import sae_lens

    known = sae_lens()
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    plain = module.dtype == torch.float32 and not hooked and module.cfg.reshape_activations == "none"
    relu = type(getattr(module, "activation_fn", None)) is nn.ReLU
    if plain and relu and type(module) is known.JumpReLUSAE:
        # what is above the threshold and not above zero is zero after the ReLU
        bound = module.threshold.detach().clamp(min=0)
        return lambda x: _above(encoder.pre_activations(x), bound)
    if plain and relu and type(module) is known.StandardSAE:
        zero = torch.zeros((), device=module.device)
        return lambda x: _above(encoder.pre_activations(x), zero)
    if plain and type(module) is known.TopKSAE and not getattr(module.activation_fn, "use_sparse_activations", True):
        return lambda x: _largest(encoder.pre_activations(x), module)
    return lambda x: _not_zero(module.encode(x).to(torch.float32))


def _above(pre: "torch.Tensor", bound: "torch.Tensor") -> Triples:
    return _taken(pre, pre > bound)


def _not_zero(acts: "torch.Tensor") -> Triples:
    return _taken(acts, acts != 0)


def _taken(acts: "torch.Tensor", fires: "torch.Tensor") -> Triples:
    """Places and values of `acts` (n, s) where `fires`; numpy finds them in a tenth of torch's time on the CPU."""
    if acts.device.type == "cpu":
        flat = np.flatnonzero(fires.numpy().reshape(-1))
        return flat, acts.numpy().reshape(-1)[flat]
    places = fires.reshape(-1).nonzero().reshape(-1)
    return places.cpu().numpy(), acts.reshape(-1)[places].cpu().numpy()


def _largest(pre: "torch.Tensor", module: Any) -> Triples:
    """The k largest of each row that are above zero."""
    import torch

    if module.cfg.rescale_acts_by_decoder_norm:
        pre = pre * module.W_dec.norm(dim=-1)
    value, feature = torch.topk(pre, k=module.activation_fn.k, dim=-1, sorted=False)
    feature, order = feature.sort(dim=-1)
    value = value.gather(-1, order)
    flat = feature + torch.arange(len(pre), device=pre.device)[:, None] * pre.shape[1]
    fires = (value > 0).cpu().numpy()
    return flat.cpu().numpy()[fires], value.cpu().numpy()[fires]
