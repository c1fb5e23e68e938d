"""Conditional steering (CAST, arXiv 2409.05907): where along a condition vector the prompts to be steered differ from others.

A prompt's similarity is that of one row h (its last token, say) to the condition vector c: cos(h, c), or, as in the authors'
package (IBM/activation-steering), cos(h, tanh(P h)) with P = c c^T / (c . c). The layer, threshold and side with the highest F1
over labelled prompts are taken, the first of equals: layers ascend, then thresholds, and "above" comes before "below".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit.blocks import iter_rows, refuse_non_finite
from steercache.fit.shift import wanted_layers
from steercache.fit.sides import BoolArray, split_sides

DoubleArray = npt.NDArray[np.float64]
Similarity = Literal["cosine", "cast"]
_STEPS = {"cosine": np.round(np.arange(-1, 1, 0.01), 2), "cast": np.arange(0.0, 1.0, 0.01)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A prompt meets the condition where its similarity to `vector` at `layer` is `side` the `threshold`; `f1` as found."""

    vector: str
    layer: int
    threshold: float
    side: Literal["above", "below"]
    f1: float
    similarity: Similarity

    @property
    def target(self) -> str:
        """The condition on a prompt's last token as a target in SQL: all tokens of prompts that meet it.

        Raises:
            UsageError: the similarity of the authors' package, which SQL does not have.
        """
        if self.similarity != "cosine":
            raise UsageError("a target in SQL compares cosines", hint='find the condition with similarity="cosine"')
        name = self.vector.replace("'", "''")
        cosine = f"list_cosine_similarity(activation({self.layer}), vector('{name}', {self.layer}))"
        met = "<" if self.side == "above" else ">="
        return f"sql: {self.threshold} {met} (select {cosine} from tokens where from_end = 0)"


def find_condition(
    sel: Selection, vector: SteeringVector, *, layers: Sequence[int] | None = None, similarity: Similarity = "cosine"
) -> Condition:
    """Find layer, threshold and side by which `vector` tells prompts apart; `sel` has one row per prompt, label 1: to be met.

    Raises:
        UsageError: no two sides, a similarity that there is not, or a layer that the run or the vector lacks.
        NonFiniteError: selected rows that are not finite.
    """
    if similarity not in _STEPS:
        raise UsageError(f"no similarity named {similarity!r}", hint=f"choose one of: {', '.join(_STEPS)}")
    shared = [layer for layer in sel.layers if layer in vector.layers]
    wanted = wanted_layers(sel, shared if layers is None else layers)
    if lacking := sorted(set(wanted) - set(vector.layers)):
        raise UsageError(
            f"{vector.name!r} has no layer {lacking[0]}", hint=f"it has {', '.join(map(str, vector.layers))}"
        )
    label = split_sides(sel).label
    refuse_non_finite(sel, wanted)
    best: Condition | None = None
    for layer in wanted:
        scores = similarities(sel, vector, layer, similarity=similarity)
        for threshold in _STEPS[similarity]:
            above = scores > threshold
            for side, met in (("above", above), ("below", ~above)):
                f1 = _f1(met, label)
                if best is None or f1 > best.f1:
                    best = Condition(
                        vector=vector.name,
                        layer=layer,
                        threshold=float(threshold),
                        side="above" if side == "above" else "below",
                        f1=f1,
                        similarity=similarity,
                    )
    assert best is not None  # a selection has a layer
    return best


def similarities(
    sel: Selection, vector: SteeringVector, layer: int, *, similarity: Similarity = "cosine"
) -> DoubleArray:
    """The similarity of every row to the vector at one layer, shape (n,)."""
    direction = vector.at(layer).astype(np.float64)
    found = np.empty(len(sel))
    for part, rows in iter_rows(sel, layer):
        h = rows.astype(np.float64)
        other = np.broadcast_to(direction, h.shape)
        if similarity == "cast":
            other = np.tanh(np.outer(h @ direction, direction) / (direction @ direction))
        norms = np.linalg.norm(h, axis=1) * np.linalg.norm(other, axis=1)
        found[part] = np.einsum("nd,nd->n", h, other) / np.where(norms > 0, norms, 1)
    return found


def _f1(met: BoolArray, label: BoolArray) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is met rightly."""
    return 2 * int((met & label).sum()) / max(1, int(met.sum()) + int(label.sum()))
