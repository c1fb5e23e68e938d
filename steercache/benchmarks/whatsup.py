"""What'sUp's three accuracies: of single pictures, of pairs of opposite arrangements, of whole sets of four."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from steercache.core.errors import UsageError

OPPOSITE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "on": "under",
        "under": "on",
        "to the left of": "to the right of",
        "to the right of": "to the left of",
        "in front of": "behind",
        "behind": "in front of",
    }
)
SET_SIZE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatsUpScore:
    """Shares of right pictures, pairs and sets, with their numbers; `n_right_pairs` of `n_pairs` were right.

    A pair or set counts only when all its pictures are in the part that was scored: `n_partial_sets` were not whole.
    """

    individual: float
    pair: float | None
    whole_set: float | None
    n: int
    n_right_pairs: int
    n_pairs: int
    n_sets: int
    n_partial_sets: int


def whatsup_score(correct: Sequence[bool], set_ids: Sequence[str], relations: Sequence[str]) -> WhatsUpScore:
    """Score right/wrong answers by the set and arrangement of each picture (`meta` of the benchmark's examples).

    A pair is two pictures of one set in opposite arrangements; it is right when both are, a set when all four are. Two things
    photographed twice in one arrangement make two sets, in the order of the rows.

    Raises:
        UsageError: lists of different length or empty, or an arrangement without an opposite.
    """
    if not correct or not len(correct) == len(set_ids) == len(relations):
        raise UsageError(f"{len(correct)} answers, {len(set_ids)} sets, {len(relations)} arrangements")
    unknown = sorted(set(relations) - set(OPPOSITE))
    if unknown:
        raise UsageError(
            f"arrangements without an opposite: {', '.join(unknown)}", hint="these are not What'sUp's captions"
        )
    sets: dict[tuple[str, int], dict[str, bool]] = {}
    times: Counter[tuple[str, str]] = Counter()
    for right, set_id, relation in zip(correct, set_ids, relations, strict=True):
        sets.setdefault((set_id, times[set_id, relation]), {})[relation] = bool(right)
        times[set_id, relation] += 1
    pairs = [
        members[relation] and members[opposite]
        for members in sets.values()
        for relation, opposite in OPPOSITE.items()
        if relation < opposite and relation in members and opposite in members
    ]
    whole = [all(members.values()) for members in sets.values() if len(members) == SET_SIZE]
    return WhatsUpScore(
        individual=sum(map(bool, correct)) / len(correct),
        pair=sum(pairs) / len(pairs) if pairs else None,
        whole_set=sum(whole) / len(whole) if whole else None,
        n=len(correct),
        n_right_pairs=sum(pairs),
        n_pairs=len(pairs),
        n_sets=len(whole),
        n_partial_sets=len(sets) - len(whole),
    )
