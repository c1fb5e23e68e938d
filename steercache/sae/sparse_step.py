"""A training step of TopK and BatchTopK SAEs that computes only with the features that are active.

sae-lens multiplies dense arrays (rows, features) six times a step, of which all but some in a hundred values are zero. Here
only the encoder's product is dense; decoding and every gradient go over the active features. Losses and gradients are those of
sae-lens' own `training_forward_pass`, in another order of summation (tests/sae/test_sparse_step.py).
"""

from functools import cache
from typing import Any

from steercache.sae.library import sae_lens

_CHUNK = 4096  # pairs of rows multiplied at once: a few MB at usual widths


@cache
def sparse_class(architecture: str) -> Any:
    """sae-lens' training class of `topk` or `batchtopk`, with the step computed sparsely."""
    import torch

    library = sae_lens()
    from sae_lens.saes.sae import TrainStepOutput

    is_batch = architecture == "batchtopk"
    base: Any = library.BatchTopKTrainingSAE if is_batch else library.TopKTrainingSAE
    reconstruct: Any = _reconstruction().apply

    class SparseStep(base):  # type: ignore[misc]
        def training_forward_pass(self, step_input: Any) -> Any:
            x = step_input.sae_in.to(self.dtype)
            n = len(x)

            def pick(scores_ns: Any) -> Any:
                if is_batch:
                    return pick_of_batch(scores_ns, int(self.cfg.k * n), float(self.topk_threshold))
                return pick_of_rows(scores_ns, int(self.cfg.k))

            out, place, value = reconstruct(x, self.W_enc, self.b_enc, self.W_dec, self.b_dec, pick)
            mse = (out - x).pow(2).sum(dim=-1).mean()
            aux = self._aux(x, out, step_input.dead_neuron_mask)
            acts = torch.sparse_coo_tensor(
                torch.stack([place // self.cfg.d_sae, place % self.cfg.d_sae]),
                value,
                (n, self.cfg.d_sae),
                is_coalesced=True,
                check_invariants=False,
            )
            if is_batch and len(value):
                self.update_topk_threshold(value)
            return TrainStepOutput(
                sae_in=step_input.sae_in,
                sae_out=out,
                feature_acts=acts,
                hidden_pre=acts,
                loss=mse + aux,
                losses={"mse_loss": mse, "auxiliary_reconstruction_loss": aux},
            )

        def _aux(self, x: Any, out: Any, dead_mask: Any) -> Any:
            """The loss that helps dead features back (Gao et al. 2024, A.2): they rebuild what the others leave."""
            dead = dead_mask.nonzero().flatten()
            if not len(dead):
                return out.new_tensor(0.0)
            most = x.shape[-1] // 2
            rows_sd = self.W_dec[dead]
            h = (x - self.b_dec) @ self.W_enc[:, dead] + self.b_enc[dead]
            if len(dead) > most:
                kept = (h * rows_sd.norm(dim=-1)).detach().topk(most, dim=-1, sorted=False).indices
                h = h * torch.zeros_like(h).scatter_(-1, kept, 1.0)
            error = (h @ rows_sd - (x - out).detach()).pow(2).sum(dim=-1).mean()
            return self.cfg.aux_loss_coefficient * min(len(dead) / most, 1.0) * error

    return SparseStep


def pick_of_batch(scores_ns: Any, n_kept: int, threshold: float) -> Any:
    """Flat places, ascending, of the `n_kept` largest positive scores; those near `threshold` and above are looked at first."""
    flat = scores_ns.reshape(-1)
    near = (flat > 0.7 * threshold).nonzero().flatten() if threshold > 0 else flat[:0]
    if len(near) >= n_kept:
        return near[flat[near].topk(n_kept, sorted=False).indices].sort().values
    found = flat.topk(n_kept, sorted=False)
    return found.indices[found.values > 0].sort().values


def pick_of_rows(scores_ns: Any, k: int) -> Any:
    """Flat places, ascending, of the k largest positive scores of every row."""
    import torch

    found = scores_ns.topk(k, dim=-1, sorted=False)
    first = torch.arange(len(scores_ns), device=scores_ns.device)[:, None] * scores_ns.shape[1]
    return (first + found.indices)[found.values > 0].sort().values


@cache
def _reconstruction() -> Any:
    import torch
    from torch.nn import functional

    def summed(of_nd: Any, index: Any, first: Any, weight: Any) -> Any:
        """For each bag of indices the weighted sum of rows: a product of a sparse and a dense matrix."""
        return functional.embedding_bag(index, of_nd, first, mode="sum", per_sample_weights=weight)

    class Reconstruction(torch.autograd.Function):
        """Rows rebuilt from the features that `pick` chooses by pre-activation times decoder norm."""

        @staticmethod
        def forward(ctx: Any, x: Any, w_enc: Any, b_enc: Any, w_dec: Any, b_dec: Any, pick: Any) -> Any:
            centred = x - b_dec
            pre = (centred @ w_enc).to(x.dtype).add_(b_enc)
            scores = pre * w_dec.norm(dim=-1)
            place = pick(scores)
            row, feature = place // w_enc.shape[1], place % w_enc.shape[1]
            value = pre.reshape(-1)[place]
            first = torch.searchsorted(row, torch.arange(len(x), device=x.device))
            out = summed(w_dec, feature, first, value) + b_dec
            ctx.save_for_backward(centred, w_enc, w_dec, row, feature, value)
            scored = scores.reshape(-1)[place]
            ctx.mark_non_differentiable(place, scored)
            return out, place, scored

        @staticmethod
        def backward(ctx: Any, grad: Any, *_: Any) -> Any:
            centred, w_enc, w_dec, row, feature, value = ctx.saved_tensors
            n_features = len(w_dec)
            of_value = torch.cat(
                [(grad[r] * w_dec[f]).sum(-1) for r, f in zip(row.split(_CHUNK), feature.split(_CHUNK), strict=True)]
            )
            order = feature.argsort(stable=True)
            count = torch.bincount(feature, minlength=n_features)
            first, rows = count.cumsum(0) - count, row[order]
            of_w_dec = summed(grad.contiguous(), rows, first, value[order])
            of_w_enc = summed(centred, rows, first, of_value[order]).T.contiguous()
            of_b_enc = torch.zeros_like(w_dec[:, 0]).index_add_(0, feature, of_value)
            of_b_dec = grad.sum(0) - w_enc @ of_b_enc
            return None, of_w_enc, of_b_enc, of_w_dec, of_b_dec, None

    return Reconstruction
