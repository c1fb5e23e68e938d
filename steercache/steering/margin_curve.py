"""Where a straight line ends: how margins bend away from it along one vector at one layer, from a few exact answers.

A gradient says what a weak vector does. At half a median norm the damage that every direction does is as large as what this one
was meant for, and it differs between layers: lines alone rank cells badly. So a few questions (a *pilot*) are answered exactly
at one or two strengths, and each question's change of margin at step s, in median norms of the steered rows, becomes

    slope(s) * line + offset(s),    slope(s) = 1 + u s^2 + w s^3,    offset(s) = a s^2 + b s^3,

`line` being what its gradient says: the line itself at s = 0, and two more terms of its expansion. Slope and offset at the
pilot's strengths come from a regression over its questions, so that the mean over all questions takes their lines into
account (a regression estimator: Cochran, Sampling Techniques, 1977, chapter 7). The slope is kept within [0, 1]: far out a
gradient says less of a question, never the contrary.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError

Float64Array = npt.NDArray[np.float64]
POWERS: Final = (2, 3)
NEAR: Final = 0.6  # of the pilot's largest strength is its other one: from lower ones, what lies between was missed


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginCurve:
    """Coefficients of s^2 and s^3 of the slope (without its 1) and of the offset; `steps` (p,) are the pilot's strengths, and
    `spread` (p,) the standard deviation there of a question's change about its prediction."""

    slope: Float64Array
    offset: Float64Array
    steps: Float64Array
    spread: Float64Array

    def slope_at(self, steps: npt.ArrayLike) -> Float64Array:
        """Shape of `steps`, within [0, 1]."""
        found: Float64Array = np.clip(1 + _powers(steps) @ self.slope, 0.0, 1.0)
        return found

    def offset_at(self, steps: npt.ArrayLike) -> Float64Array:
        """Shape of `steps`, in units of the margin."""
        found: Float64Array = _powers(steps) @ self.offset
        return found

    def spread_at(self, steps: npt.ArrayLike) -> Float64Array:
        """Shape of `steps`: linear in s^2 between 0 and the pilot's strengths, and constant beyond."""
        squares = np.concatenate([[0.0], self.steps**2])
        found: Float64Array = np.interp(np.square(steps), squares, np.concatenate([[0.0], self.spread]))
        return found


def fit_margin_curve(steps: npt.ArrayLike, lines_pm: npt.ArrayLike, moved_pm: npt.ArrayLike) -> MarginCurve:
    """A bend from a pilot of m questions at p strengths: `steps` (p,), positive and different, `lines_pm` what the gradients
    say, `moved_pm` the exact changes of the answer margin.

    Raises:
        UsageError: no strength, one twice or at 0, or fewer than two questions.
    """
    s, lines, moved = (np.asarray(x, dtype=np.float64) for x in (steps, lines_pm, moved_pm))
    if s.size == 0 or len({*s.tolist()}) < s.size or not (s > 0).all() or lines.shape[1] < 2:
        raise UsageError(f"a pilot at the strengths {s.tolist()} over {lines.shape[-1]} questions gives no correction")
    order = np.argsort(s)
    s, lines, moved = s[order], lines[order], moved[order]
    about = lines - lines.mean(axis=1, keepdims=True)
    variance = (about**2).sum(axis=1)
    slope = np.where(variance > 0, (about * moved).sum(axis=1) / np.where(variance > 0, variance, 1), 1.0)
    slope = np.clip(slope, 0.0, 1.0)
    offset = moved.mean(axis=1) - slope * lines.mean(axis=1)
    away = moved - slope[:, None] * lines - offset[:, None]
    return MarginCurve(slope=_through(s, slope - 1), offset=_through(s, offset), steps=s, spread=away.std(axis=1))


def bent(bend: MarginCurve, steps_c: npt.ArrayLike, lines_cn: npt.ArrayLike) -> Float64Array:
    """Predicted changes of the answer margin (c, n) at strengths `steps_c` (c,), from what the gradients say."""
    steps = np.asarray(steps_c, dtype=np.float64)
    changes: Float64Array = bend.slope_at(steps)[:, None] * np.asarray(lines_cn, dtype=np.float64)
    return changes + bend.offset_at(steps)[:, None]


def likely_right(margins_cn: npt.ArrayLike, spread_c: npt.ArrayLike) -> Float64Array:
    """Expected share of margins above 0 (c,), each known up to a normal error of `spread_c`; with spread 0 they are counted."""
    margins, spread = np.asarray(margins_cn, dtype=np.float64), np.asarray(spread_c, dtype=np.float64)[:, None]
    normal = torch.special.ndtr(torch.from_numpy(margins / np.where(spread > 0, spread, 1))).numpy()
    share: Float64Array = np.where(spread > 0, normal, margins > 0).mean(axis=1)
    return share


def pilot_places(steps: npt.ArrayLike, *, trust: float) -> tuple[int, ...]:
    """Which of some strengths, in median norms, a pilot is run at: the largest within `trust` (or a tenth beyond: norms differ
    between questions), and that nearest to `NEAR` of it; none where all are 0 or further."""
    s = np.asarray(steps, dtype=np.float64)
    there = np.flatnonzero((s > 0) & (s <= trust * 1.1))
    if not there.size:
        return ()
    far = int(there[np.argmax(s[there])])
    near = int(there[np.argmin(np.abs(s[there] - NEAR * s[far]))])
    return (far,) if s[near] == s[far] else (near, far)


def _powers(steps: npt.ArrayLike) -> Float64Array:
    s = np.asarray(steps, dtype=np.float64)
    return np.stack([s**p for p in POWERS], axis=-1)


def _through(s: Float64Array, values: Float64Array) -> Float64Array:
    """Coefficients of the powers through one or two values; of more, the closest."""
    if s.size == 1:
        return np.array([values[0] / s[0] ** POWERS[0], 0.0])
    return np.asarray(np.linalg.lstsq(_powers(s), values, rcond=None)[0])
