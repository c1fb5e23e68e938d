"""Where the layers of a file belong, found by comparing with directions of the model's own activations.

Each direction of the file votes for the block whose reference direction it is most alike; neighbouring blocks are alike, so a
vote counts only if it wins clearly, and an offset is found only if the votes agree.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector

RANGE: Final = 3
MIN_COSINE: Final = 0.5  # of the best block, in absolute value: below, the file's direction is about something else
MARGIN: Final = 0.01  # over the second best block
AGREEMENT: Final = 2 / 3  # of the votes


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetCheck:
    """The offset, or None with `why`; mean absolute cosine by offset, and how many directions voted for which."""

    offset: int | None
    why: str
    cosines: Mapping[int, float]
    votes: Mapping[int, int]


def find_offset(held: Mapping[int, npt.NDArray[np.float32]], reference: SteeringVector) -> OffsetCheck:
    """Compare directions of a file, by its own numbers, with `reference`, the mean differences of the model's own activations
    for the same concept at every block.

    Raises:
        UsageError: the reference has another width, or one layer only.
    """
    width = len(next(iter(held.values())))
    if width != reference.hidden_size:
        raise UsageError(f"the file's directions are {width} wide, and those to compare with {reference.hidden_size}")
    if len(reference.layers) < 2:
        raise UsageError(f"{reference.name!r} has one layer, and an offset is found between several")
    numbers = list(held)
    ours = _unit(reference.values)
    table = np.abs(_unit(np.stack([held[number] for number in numbers])) @ ours.T)
    by_offset: dict[int, list[float]] = {}
    votes: Counter[int] = Counter()
    blocks = list(reference.layers)
    for number, row in zip(numbers, table, strict=True):
        near = [(float(row[at]), block - number) for at, block in enumerate(blocks) if abs(block - number) <= RANGE]
        for cosine, offset in near:
            by_offset.setdefault(offset, []).append(cosine)
        ranked = sorted(near, reverse=True)
        if len(ranked) > 1 and ranked[0][0] >= MIN_COSINE and ranked[0][0] - ranked[1][0] >= MARGIN:
            votes[ranked[0][1]] += 1
    cosines = {offset: float(np.mean(found)) for offset, found in sorted(by_offset.items())}
    decided, why = _decided(votes, cosines, n=len(numbers))
    return OffsetCheck(offset=decided, why=why, cosines=cosines, votes=dict(sorted(votes.items())))


def _decided(votes: Counter[int], cosines: Mapping[int, float], *, n: int) -> tuple[int | None, str]:
    best = max(cosines.values(), default=0.0)
    if not votes:
        why = "too unlike the model's own" if best < MIN_COSINE else "as much like one block's as like the next one's"
        return None, f"cannot be told: the directions are {why} (largest mean cosine {best:.2f})"
    (offset, n_votes), total = votes.most_common(1)[0], sum(votes.values())
    if n_votes < AGREEMENT * total or 2 * total < n:
        return None, f"cannot be told: {n_votes} of {n} directions speak for {offset:+d}, {total - n_votes} for others"
    return (
        offset,
        f"{n_votes} of {n} directions are most like block number {offset:+d} (mean cosine {cosines[offset]:.3f})",
    )


def _unit(values_ld: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(values_ld.astype(np.float64), axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = values_ld / np.where(lengths == 0, 1, lengths)
    return unit
