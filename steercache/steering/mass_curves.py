"""Curves of word probabilities against alpha: means with intervals over inputs, the rank among random directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steercache.steering.effects import Masses, WordMass

_N_BOOTSTRAP = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class MassAtAlpha:
    """One point of the curve: the vector's mean mass with a 95 % interval over prompts, and the random directions' means.

    `p_random` is (1 + random directions at least as high) / (1 + their number): its least value is 1 / 21 with 20. Without
    random directions all that is said of them is NaN. `n_failed` inputs overflowed under the vector: they are left out of the
    mean and count as 0 in the rank; a random direction that fails at all of them counts as at least as high.
    """

    alpha: float
    mass: float
    low: float
    high: float
    random_mean: float
    random_low: float
    random_high: float
    p_random: float
    n_failed: int = 0


def summarise(effect: WordMass, *, seed: int = 0) -> tuple[MassAtAlpha, ...]:
    """The curve of all words together; see `summarise_mass`."""
    return summarise_mass(effect.mass_vap, effect.alphas, seed=seed)


def summarise_mass(mass_vap: Masses, alphas: Sequence[float], *, seed: int = 0) -> tuple[MassAtAlpha, ...]:
    """Means over inputs, percentile bootstrap over inputs (2,000 draws), range of the random directions; `mass_vap` has shape
    (directions, alphas, inputs), the vector first."""
    generator = np.random.Generator(np.random.PCG64(seed))
    n_inputs = mass_vap.shape[2]
    drawn = generator.integers(0, n_inputs, (_N_BOOTSTRAP, n_inputs))
    points = []
    score_va, failed_va = _scores(mass_vap)
    for a, alpha in enumerate(alphas):
        own = mass_vap[0, a]
        known = ~np.isnan(own)
        weights = known[drawn].sum(axis=1)
        draws = np.where(known, own, 0.0)[drawn].sum(axis=1)[weights > 0] / weights[weights > 0]
        low, high = np.percentile(draws, (2.5, 97.5)) if known.any() else (np.nan, np.nan)
        random = [float(np.nanmean(row)) for row in mass_vap[1:, a] if not np.isnan(row).all()]
        points.append(
            MassAtAlpha(
                alpha=alpha,
                mass=float(own[known].mean()) if known.any() else np.nan,
                low=float(low),
                high=float(high),
                random_mean=float(np.mean(random)) if random else np.nan,
                random_low=min(random, default=np.nan),
                random_high=max(random, default=np.nan),
                p_random=np.nan if len(mass_vap) == 1 else _rank(score_va[:, a], failed_va[:, a]),
                n_failed=int((~known).sum()),
            )
        )
    return tuple(points)


def rank_of_best(mass_vap: Masses) -> float | None:
    """Rank of the vector's highest point among the random directions' highest points, which no choice of a strength flatters;
    `mass_vap` has shape (directions, alphas, inputs), the vector first. None without random directions.

    A strength at which every input overflowed is no point of a curve. Otherwise what overflowed counts as 0.
    """
    if len(mass_vap) == 1:
        return None
    score_va, failed_va = _scores(mass_vap)
    return _rank(np.where(failed_va, -np.inf, score_va).max(axis=1), np.asarray(failed_va.all(axis=1)))


def _scores(mass_vap: Masses) -> tuple[Masses, npt.NDArray[np.bool_]]:
    """What directions are ranked by at every alpha, (directions, alphas): means in which failed inputs are 0; and where all
    inputs failed."""
    return np.nan_to_num(mass_vap, nan=0.0).mean(axis=2), np.asarray(np.isnan(mass_vap).all(axis=2))


def _rank(score_v: Masses, failed_v: npt.NDArray[np.bool_]) -> float:
    """(1 + random directions at least as high) / all; the vector is first. What failed cannot be beaten, and beats nothing."""
    if failed_v[0]:
        return 1.0
    as_high = np.count_nonzero(failed_v[1:] | (score_v[1:] >= score_v[0]))
    return float((1 + as_high) / len(score_v))
