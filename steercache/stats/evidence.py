"""Evidence, valid at every look, that one cell is not better than another on a known, finite split.

The split has n samples and is read in a random order without replacement. For each cell, x_t in {-1, 0, 1} is "right by the
cell" minus "right by the reference" on the t-th sample. The hypothesis "the cell is right on at least d more samples of the
split than the reference" fixes the least mean that the samples still unseen must have,

    m_t = (d - sum of x before t) / (samples not seen before t),

so that a bet against it, K_t = prod (1 + lambda_t (m_t - x_t)) with lambda_t >= 0 chosen before x_t, is a supermartingale
starting from 1: the probability that it EVER reaches 1 / error is at most `error` (Ville). As samples run out, m_t grows and
the bets become certain. Source: Waudby-Smith & Ramdas, "Confidence sequences for sampling without replacement" (2020) and
"Estimating means of bounded random variables by betting" (2023).

The bets here are an average of a few constant shares of the largest bet allowed and of one that follows the data; an average
of such processes is one again.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from steercache.stats.arrays import Float64Array, finite

SHARES: Final = (1.0, 0.3, 0.1)  # of the largest bet: for gaps from certain to slight
FOLLOWING: Final = 0.75  # weight of the bet that follows the data
CERTAIN: Final = 1e9  # log evidence of what can no longer be: the unseen samples do not suffice


@dataclass(slots=True, kw_only=True)
class LeadBets:
    """Open bets of c cells against "leads by `lead` or more over the split"; what was seen before they opened is no evidence.

    `total`, `squares` (c,): sums of the differences and of their squares on all samples seen. `log_capital` (c, b) of each
    bet. `best` (c,): the largest log evidence so far. Cells that get no more samples keep theirs.
    """

    n_samples: int
    lead: int
    n_seen: int
    total: Float64Array
    squares: Float64Array
    log_capital: Float64Array
    best: Float64Array


def start_lead_bets(seen_ct: npt.ArrayLike, *, n_samples: int, lead: int) -> LeadBets:
    """Open bets after the differences `seen_ct` (c, t): they shift the hypothesis and inform the bets."""
    seen = finite(seen_ct, "differences")
    return LeadBets(
        n_samples=n_samples,
        lead=lead,
        n_seen=seen.shape[1],
        total=seen.sum(axis=1),
        squares=(seen**2).sum(axis=1),
        log_capital=np.tile(np.log([*[(1 - FOLLOWING) / len(SHARES)] * len(SHARES), FOLLOWING]), (len(seen), 1)),
        best=np.zeros(len(seen)),
    )


def read_on(bets: LeadBets, cells: npt.NDArray[np.int64], x_cm: npt.ArrayLike) -> Float64Array:
    """Settle the bets of some cells on the next m differences (c, m), and return their log K_t after each, shape (c, m)."""
    x = finite(x_cm, "differences")
    n_before = bets.n_seen + np.arange(x.shape[1])
    before = bets.total[cells, None] + np.cumsum(x, axis=1) - x
    squares = bets.squares[cells, None] + np.cumsum(x**2, axis=1) - x**2
    unseen = bets.n_samples - n_before
    need = (bets.lead - before) / unseen  # m_t: the least mean of the unseen samples
    edge = need - x
    largest = 1 / np.maximum(1 - need, 1e-12)  # keeps 1 + lambda (m - 1) >= 0
    alive = need > -1  # at -1 and below every outcome fits the hypothesis: no bet
    stakes = [share * 0.999 * largest for share in SHARES]
    stakes.append(_following(before / (n_before + 1), (squares + 1) / (n_before + 1), need, largest))
    paths = np.stack([_log_capital(stake, edge, alive) for stake in stakes]) + bets.log_capital[cells].T[:, :, None]
    total: Float64Array = np.logaddexp.reduce(paths, axis=0)
    total[bets.lead - (before + x) > unseen - 1] = CERTAIN  # even winning every sample left would not give the lead
    bets.log_capital[cells] = paths[:, :, -1].T
    bets.total[cells] += x.sum(axis=1)
    bets.squares[cells] += (x**2).sum(axis=1)
    bets.best[cells] = np.maximum(bets.best[cells], total.max(axis=1))
    bets.n_seen += x.shape[1]
    return total


def _log_capital(bet: Float64Array, edge: Float64Array, alive: npt.NDArray[np.bool_]) -> Float64Array:
    factor = np.where(alive, 1 + bet * edge, 1.0)
    logs: Float64Array = np.cumsum(np.log(np.maximum(factor, 1e-300)), axis=1)
    return logs


def _following(mean: Float64Array, square: Float64Array, need: Float64Array, largest: Float64Array) -> Float64Array:
    """The bet that would have grown fastest on what was seen so far: mean edge over mean squared edge."""
    spread = np.maximum(square - 2 * mean * need + need**2, 1e-6)
    bet: Float64Array = np.clip((need - mean) / spread, 0, 0.9 * largest)
    return bet


def forbidden_lead(tolerance: float, n_samples: int) -> int:
    """The smallest lead, in samples, that is more than `tolerance` of the split.

    >>> forbidden_lead(0.01, 500), forbidden_lead(0.01, 150), forbidden_lead(0.0, 100)
    (6, 2, 1)
    """
    return int(np.floor(tolerance * n_samples + 1e-9)) + 1
