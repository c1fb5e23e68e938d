"""What any vector would do, predicted from cached gradients: no model, no forward pass, matrix products in blocks.

To first order, alpha * v added at layer l on a target moves the margin of option k of a sample by alpha * <g_k, v>, g_k being
the gradient that `steer.gradient` recorded. The answer margin is log p(right) - max log p(wrong) (core.trials.Answer.margin);
the maximum is taken after every option has moved, so that a wrong option that overtakes another one counts.

Two depths: `mean_shifts` follows the option that is the best wrong one without steering. Then the mean over samples can be
taken before the product, and thousands of vectors cost next to nothing. `predict` goes sample by sample and option by option,
in blocks that stay in the processor's own memory: writing out (sample, vector) would take longer than computing it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.stats.arrays import finite

Float32Array = npt.NDArray[np.float32]
BLOCK_BYTES: Final = 2**21  # of products at a time: what a core's own cache holds


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientScreen:
    """Cached gradients of n samples for one target.

    `gradient_of(layer)` gives (n, k, d) float32, one row per answer option (NaN or anything where a sample has fewer),
    `margins` (n, k) the unsteered margins with NaN for missing options, `right` (n,) the index of the right option.
    """

    layers: tuple[int, ...]
    gradient_of: Callable[[int], Float32Array] = field(repr=False)
    margins: Float32Array = field(repr=False)
    right: npt.NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        n_options = (~np.isnan(self.margins)).sum(axis=1)
        if len(self.right) != len(self.margins) or not ((self.right >= 0) & (self.right < n_options)).all():
            raise UsageError("every sample needs the index of its right option among those that it has")
        if (n_options < 2).any():
            raise UsageError("an answer margin needs at least two options")

    @property
    def scale(self) -> Float32Array:
        """(n, 1): differences of margins times this are differences of log probabilities."""
        n_options = (~np.isnan(self.margins)).sum(axis=1, keepdims=True)
        scale: Float32Array = ((n_options - 1) / n_options).astype(np.float32)
        return scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Per layer, vector and strength (`alphas`): `shift` of the mean answer margin, `accuracy`, and how many samples get a
    larger margin (`helped`) or a smaller one (`hurt`); each (l, v, a). `base_accuracy` is that without steering."""

    layers: tuple[int, ...]
    alphas: Float32Array
    shift: Float32Array
    accuracy: Float32Array
    helped: npt.NDArray[np.int32]
    hurt: npt.NDArray[np.int32]
    base_accuracy: float


def answer_margins(screen: GradientScreen) -> Float32Array:
    """log p(right) - max log p(wrong) without steering, (n,)."""
    return _leads(screen).amin(1).numpy()


def answer_gradients(screen: GradientScreen, layer: int) -> Float32Array:
    """Gradient of the answer margin against the option that is the best wrong one without steering, (n, d)."""
    wrong = screen.margins.copy()
    at = np.arange(len(wrong))
    wrong[at, screen.right] = np.nan
    gradient = screen.gradient_of(layer)
    best = np.nanargmax(wrong, axis=1)
    moved: Float32Array = (gradient[at, screen.right] - gradient[at, best]) * screen.scale
    return moved


def mean_shifts(screen: GradientScreen, vectors: Float32Array) -> Float32Array:
    """Predicted change of the mean answer margin per unit of alpha, (l, v).

    `vectors` has shape (v, d), the same at every layer, or (l, v, d).
    """
    means = [answer_gradients(screen, layer).mean(axis=0) for layer in screen.layers]
    return np.stack([_at(vectors, i, screen) @ mean for i, mean in enumerate(means)])


def sample_shifts(screen: GradientScreen, vectors: Float32Array, layer: int) -> Float32Array:
    """Predicted change of every sample's answer margin per unit of alpha, (n, v): whom a vector helps, whom it hurts."""
    i = screen.layers.index(layer)
    moved = torch.from_numpy(answer_gradients(screen, layer)) @ torch.from_numpy(_at(vectors, i, screen)).T
    return moved.numpy()


def each_layer_shifts(screen: GradientScreen, vectors: Float32Array) -> Iterator[tuple[int, Float32Array]]:
    """`sample_shifts` of layer after layer, (layer, (n, v)), all in one buffer: take what is wanted before going on."""
    buffer = torch.empty(len(screen.margins), vectors.shape[-2], device="cpu")
    for i, layer in enumerate(screen.layers):
        gradients = torch.from_numpy(answer_gradients(screen, layer))
        torch.mm(gradients, torch.from_numpy(_at(vectors, i, screen)).T, out=buffer)
        yield layer, buffer.numpy()


def margins_after(screen: GradientScreen, layer: int, deltas: Float32Array) -> Float32Array:
    """Predicted answer margin of every sample when each of `deltas` (v, d) is added at a layer, (v, n)."""
    one = GradientScreen(layers=(layer,), gradient_of=screen.gradient_of, margins=screen.margins, right=screen.right)
    leads = _leads(screen)
    blocks = [(leads + moved).amin(2).numpy() for _, _, moved in _moves(one, deltas, BLOCK_BYTES)]
    return np.concatenate(blocks)


def margins_after_all(parts: Sequence[tuple[GradientScreen, int, Float32Array]]) -> Float32Array:
    """Predicted answer margin of every sample when several deltas (d,) are added, each at its layer on the target of its
    screen, (n,): to first order what they move adds up."""
    leads = _leads(parts[0][0])
    for screen, layer, delta_d in parts:
        one = replace(screen, layers=(layer,))
        for _, _, moved in _moves(one, delta_d[None], BLOCK_BYTES):
            leads = leads + moved[0]
    return leads.amin(1).numpy()


def predict(
    screen: GradientScreen,
    vectors: Float32Array,
    alphas: Sequence[float] | Float32Array,
    *,
    memory_bytes: int = BLOCK_BYTES,
) -> Prediction:
    """Margin shift and accuracy for every layer, vector and strength, in blocks that stay within `memory_bytes`.

    `alphas` are strengths (a,), or (l, v, a) where every vector has its own.
    """
    size = (len(screen.layers), vectors.shape[-2], np.shape(alphas)[-1])
    alphas_lva = torch.from_numpy(np.broadcast_to(np.asarray(alphas, dtype=np.float32), size).copy())
    leads = _leads(screen)
    start = leads.amin(1)
    shift, accuracy = np.empty(size, np.float32), np.empty(size, np.float32)
    helped, hurt = np.empty(size, np.int32), np.empty(size, np.int32)
    for i, part, moved in _moves(screen, vectors, memory_bytes):
        led, change, flags = torch.empty_like(moved), *(torch.empty(moved.shape[:2], device="cpu") for _ in range(2))
        for j in range(size[2]):
            torch.addcmul(leads, alphas_lva[i, part, j, None, None], moved, out=led)
            margins = led[:, :, 0] if led.shape[2] == 1 else led.amin(2)
            torch.sub(margins, start, out=change)
            shift[i, part, j] = change.mean(1).numpy()
            # Flags of 0.0 and 1.0 are written and added up several times faster than booleans.
            accuracy[i, part, j] = torch.gt(margins, 0, out=flags).mean(1).numpy()
            helped[i, part, j] = torch.gt(change, 0, out=flags).sum(1).numpy()
            hurt[i, part, j] = torch.lt(change, 0, out=flags).sum(1).numpy()
    return Prediction(
        layers=screen.layers,
        alphas=alphas_lva.numpy(),
        shift=shift,
        accuracy=accuracy,
        helped=helped,
        hurt=hurt,
        base_accuracy=float((start > 0).float().mean()),
    )


def null_ranks(screen: GradientScreen, vectors: Float32Array, nulls: Float32Array) -> Float32Array:
    """Share of null directions that move the mean answer margin up at least as far as each vector, (l, v), in (0, 1].

    Both are brought to unit length: a direction is judged, not its norm. `nulls` has shape (m, d) or (l, m, d); the vector
    itself counts as one of m + 1, so that the share is a valid one-sided p value. `mean_shifts` of alpha < 0 is its negative:
    give -v to test the other side.

    Raises:
        UsageError: a vector of zeros, or a shift that is not finite.
    """
    of_vectors = mean_shifts(screen, unit(vectors))
    of_nulls = np.sort(mean_shifts(screen, unit(nulls)), axis=1)
    finite(of_vectors, "predicted shifts of vectors")
    finite(of_nulls, "predicted shifts of null directions")
    n_nulls = of_nulls.shape[1]
    beaten = [np.searchsorted(of_nulls[i], of_vectors[i], side="left") for i in range(len(screen.layers))]
    ranks: Float32Array = ((n_nulls - np.stack(beaten) + 1) / (n_nulls + 1)).astype(np.float32)
    return ranks


def unit(vectors: Float32Array) -> Float32Array:
    """Vectors of length 1. Raises UsageError for a vector of zeros."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (norms > 0).all():
        raise UsageError("a vector of zeros has no direction")
    scaled: Float32Array = (vectors / norms).astype(np.float32)
    return scaled


def _moves(
    screen: GradientScreen, vectors: Float32Array, memory_bytes: int
) -> Iterator[tuple[int, slice, torch.Tensor]]:
    """Per layer and block of vectors: how far the right option moves away from each wrong one per unit of alpha, (v, n, k-1);
    the tensor is used again for the next block."""
    n_samples, n_rivals = screen.margins.shape[0], screen.margins.shape[1] - 1
    n_block = max(1, memory_bytes // (n_samples * n_rivals * 4))
    buffer = torch.empty(min(n_block, vectors.shape[-2]), n_samples * n_rivals, device="cpu")
    others = _others(screen)
    at_n1 = np.arange(n_samples)[:, None]
    for i, layer in enumerate(screen.layers):
        gradient = screen.gradient_of(layer)
        away = (gradient[at_n1, screen.right[:, None]] - gradient[at_n1, others]) * screen.scale[:, :, None]
        flat = torch.from_numpy(np.nan_to_num(away).reshape(n_samples * n_rivals, -1)).T.contiguous()
        directions = torch.from_numpy(_at(vectors, i, screen))
        for at in range(0, len(directions), n_block):
            block = directions[at : at + n_block]
            moved = torch.mm(block, flat, out=buffer[: len(block)])
            yield i, slice(at, at + len(block)), moved.view(len(block), n_samples, n_rivals)


def _leads(screen: GradientScreen) -> torch.Tensor:
    """How far the right option leads each other one without steering, (n, k-1); infinitely over options that are missing."""
    log_p = screen.margins * screen.scale
    at_n1 = np.arange(len(log_p))[:, None]
    leads = log_p[at_n1, screen.right[:, None]] - log_p[at_n1, _others(screen)]
    return torch.from_numpy(np.where(np.isnan(leads), np.float32(np.inf), leads))


def _others(screen: GradientScreen) -> npt.NDArray[np.int64]:
    """Every option but the right one, in order, (n, k-1)."""
    k = np.arange(screen.margins.shape[1] - 1)[None]
    others: npt.NDArray[np.int64] = k + (k >= screen.right[:, None])
    return others


def _at(vectors: Float32Array, i: int, screen: GradientScreen) -> Float32Array:
    """The vectors of the i-th layer, (v, d)."""
    if vectors.ndim == 3 and len(vectors) != len(screen.layers):
        raise UsageError(f"vectors for {len(vectors)} layers, and the gradients have {len(screen.layers)}")
    if vectors.ndim not in (2, 3):
        raise UsageError(f"vectors must have shape (vector, d) or (layer, vector, d), not {vectors.shape}")
    rows: Float32Array = np.ascontiguousarray(vectors if vectors.ndim == 2 else vectors[i], dtype=np.float32)
    return rows
