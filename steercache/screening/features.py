"""Every feature of an SAE at once: what adding its decoder row would do to a task, predicted from stored gradients.

A feature's direction is its decoder row at unit length, its strength a share of the median norm of the steered rows, so that
features compare. Two depths, as in `steering.screen`: the change of the mean answer margin for every feature (one product with
the mean gradient per layer), and the accuracy, question by question and option by option, of those whose margin moves most.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from steercache.benchmarks.task import Progress
from steercache.core.errors import UsageError
from steercache.core.trials import TRUST
from steercache.screening.gradient_store import StoredGradients
from steercache.steering.screen import Prediction, answer_gradients, predict

Float32Array = npt.NDArray[np.float32]
N_PREDICTED: Final = 256  # features of a layer and side whose accuracy is predicted
STEP: Final = 0.25  # of the median norm of the steered rows: half of what predictions are trusted for


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureEffect:
    """One feature at one layer: predicted change of the mean answer margin, accuracy, its gain over the unsteered model, and
    how many questions get a larger (`helped`) or a smaller margin (`hurt`). `alpha` is the strength along the unit decoder
    row, in units of the hidden state; negative where the feature is subtracted."""

    layer: int
    feature: int
    alpha: float
    shift: float
    accuracy: float
    gain: float
    helped: int
    hurt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedFeatures:
    """Predictions for all features of some layers on one target. `shift` has by layer the change of the mean answer margin at
    strength +`step` (f,), 0 for a decoder row of zeros; `effects` those whose accuracy was predicted, best first."""

    target: str
    step: float
    n_samples: int
    base_accuracy: float
    shift: Mapping[int, Float32Array] = field(repr=False)
    effects: tuple[FeatureEffect, ...] = field(repr=False)

    @property
    def n_features(self) -> int:
        """Features over all layers."""
        return sum(len(found) for found in self.shift.values())

    def rank_of(self, layer: int, feature: int) -> int:
        """Place of a feature among all of its layer by the size of its shift, 1 for the largest."""
        size = np.abs(self.shift[layer])
        return int((size > size[feature]).sum()) + 1


def screen_features(
    gradients: StoredGradients,
    decoders: Mapping[int, Float32Array],
    target: str,
    *,
    step: float = STEP,
    n_predicted: int = N_PREDICTED,
    both_sides: bool = True,
    progress: Progress | None = None,
) -> ScreenedFeatures:
    """Predict what every decoder row does when it is added (and, with `both_sides`, subtracted) at its layer.

    `decoders` has by layer the decoder rows in the space of raw activations, (f, d); `step` is the strength in median norms of
    the target's rows; accuracies are predicted for the `n_predicted` features of a layer and side whose mean margin moves up
    most. Effects come best first: by accuracy, then by shift, then by layer and feature.

    Raises:
        UsageError: no decoder, another width than the gradients', or a layer or target without gradients.
    """
    if not decoders or not 0 < step <= TRUST:
        raise UsageError(f"screening features needs decoders and a strength of up to {TRUST:g} median norms")
    width = gradients.document.model.hidden_size
    shifts: dict[int, Float32Array] = {}
    effects: list[FeatureEffect] = []
    base = 0.0
    for done, layer in enumerate(sorted(decoders), start=1):
        rows_fd = decoders[layer]
        if rows_fd.ndim != 2 or rows_fd.shape[1] != width:
            raise UsageError(
                f"decoder rows of shape {rows_fd.shape} at layer {layer}, and the gradients are {width} wide"
            )
        screen = gradients.screen(target, (layer,))
        norm = gradients.row_norm(target, layer)
        if not norm > 0:
            raise UsageError(f"no {target} token is steered at layer {layer}: strengths have no unit")
        mean = torch.from_numpy(answer_gradients(screen, layer).mean(axis=0))
        rows = torch.from_numpy(np.ascontiguousarray(rows_fd, np.float32))
        lengths = torch.linalg.vector_norm(rows, dim=1)
        scale = torch.where(lengths > 0, step * norm / lengths, torch.zeros_like(lengths))
        shift: Float32Array = ((rows @ mean) * scale).numpy()
        shifts[layer] = shift
        for side in (1.0, -1.0) if both_sides else (1.0,):
            best = _best(shift if side > 0 else -shift, n_predicted)
            if not len(best):
                continue
            units = (rows[best] / lengths[best, None]).numpy()
            found = predict(screen, units, [side * step * norm])
            base = found.base_accuracy
            effects += _effects(found, best)
        if progress is not None:
            progress("screening features", done, len(decoders))
    effects.sort(key=lambda e: (-e.accuracy, -e.shift, e.layer, e.feature))
    return ScreenedFeatures(
        target=target,
        step=step,
        n_samples=len(gradients.samples),
        base_accuracy=base,
        shift=shifts,
        effects=tuple(effects),
    )


def predict_features(
    gradients: StoredGradients,
    decoder_fd: Float32Array,
    target: str,
    layer: int,
    features: Sequence[int],
    *,
    step: float = STEP,
) -> tuple[FeatureEffect, ...]:
    """Effects of some features of one layer in the order given, each on the side on which the mean answer margin moves up.

    Raises:
        UsageError: a feature whose decoder row is zero, or a layer or target without gradients.
    """
    screen = gradients.screen(target, (layer,))
    norm = gradients.row_norm(target, layer)
    chosen = np.asarray(features, dtype=np.int64)
    rows = decoder_fd[chosen].astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1)
    if not norm > 0 or not (lengths > 0).all():
        raise UsageError(f"no strength can be given to these features on {target} tokens at layer {layer}")
    units = rows / lengths[:, None]
    mean = answer_gradients(screen, layer).mean(axis=0)
    found: dict[int, FeatureEffect] = {}
    up = units @ mean >= 0
    for sign, which in ((1.0, up), (-1.0, ~up)):
        if which.any():
            of_side = _effects(predict(screen, units[which], [sign * step * norm]), chosen[which])
            found |= {effect.feature: effect for effect in of_side}
    return tuple(found[f] for f in chosen.tolist())


def _best(shift: Float32Array, n: int) -> npt.NDArray[np.int64]:
    """The features whose shift is largest and above 0, best first; of equals the lower number."""
    order: npt.NDArray[np.int64] = np.argsort(-shift, kind="stable")[:n]
    return order[shift[order] > 0]


def _effects(found: Prediction, features: npt.NDArray[np.int64]) -> Iterator[FeatureEffect]:
    """Rows of a prediction at one layer and strength, one per feature."""
    for v, feature in enumerate(features.tolist()):
        accuracy = float(found.accuracy[0, v, 0])
        yield FeatureEffect(
            layer=found.layers[0],
            feature=feature,
            alpha=float(found.alphas[0, v, 0]),
            shift=float(found.shift[0, v, 0]),
            accuracy=accuracy,
            gain=accuracy - found.base_accuracy,
            helped=int(found.helped[0, v, 0]),
            hurt=int(found.hurt[0, v, 0]),
        )
