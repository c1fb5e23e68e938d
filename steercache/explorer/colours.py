"""Numbers as one of 21 colours. Pages name the colour by a class, so that light and dark pages each have their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

STEPS: Final = 10
CLIP: Final = 0.98  # quantile at which the colours end: one massive row must not bleach the rest
Scheme = Literal["mean", "zero", "up", "fires"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Which numbers the colours stand for: `low` is level -10 (0 for a scale that only rises), `centre` 0, `high` 10.

    Beyond the ends, the last colour.
    """

    low: float
    centre: float
    high: float
    rises: bool

    def levels(self, values: npt.NDArray[np.float32]) -> list[int | None]:
        """The level of every value, -10 to 10; None where it is not finite."""
        span = max(self.high - self.centre, 1e-12)
        with np.errstate(invalid="ignore"):
            steps = np.clip(np.rint((values.astype(np.float64) - self.centre) / span * STEPS), -STEPS, STEPS)
        lowest = 0 if self.rises else -STEPS
        return [
            max(int(step), lowest) if finite else None
            for step, finite in zip(steps.tolist(), np.isfinite(values).tolist(), strict=True)
        ]


def scale_of(values: npt.NDArray[np.float32], typical: Sequence[bool] | npt.NDArray[np.bool_], scheme: Scheme) -> Scale:
    """The scale for some values, from those that are `typical` (no first position, no structure) where there are any.

    "mean" and "zero" are centred there and go as far to both sides; "up" rises from the lowest, "fires" from zero to the
    highest.
    """
    finite = np.isfinite(values)
    usual = finite & np.asarray(typical, dtype=bool)
    known = values[usual if usual.any() else finite].astype(np.float64)
    if not len(known):
        return Scale(low=-1.0, centre=0.0, high=1.0, rises=scheme in ("up", "fires"))
    if scheme == "fires":
        return Scale(low=0.0, centre=0.0, high=max(float(known.max()), 0.0) or 1.0, rises=True)
    if scheme == "up":
        low, top = (float(q) for q in np.quantile(known, (1 - CLIP, CLIP)))
        high = top if top > low else low + 1.0
        return Scale(low=low, centre=low, high=high, rises=True)
    centre = float(known.mean()) if scheme == "mean" else 0.0
    reach = float(np.quantile(np.abs(known - centre), CLIP)) or 1.0
    return Scale(low=centre - reach, centre=centre, high=centre + reach, rises=False)
