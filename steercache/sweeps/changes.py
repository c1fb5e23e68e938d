"""Questions that a vector helped, hurt or left as they were, and which of them are shown."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from steercache.core.trials import Answer

Change = Literal["helped", "hurt", "unchanged", "failed"]
SHOWN: Final[Mapping[Change, int]] = MappingProxyType({"helped": 6, "hurt": 6, "unchanged": 4, "failed": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedAnswer:
    """One question before and after. "unchanged" is what stayed right or stayed wrong, in other words or not."""

    sample_id: str
    change: Change
    before: Answer
    after: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """How many questions changed in each way, and some of them: drawn by a hash of their ids, so that nobody picked them."""

    counts: Mapping[Change, int]
    shown: tuple[ChangedAnswer, ...]

    @property
    def n(self) -> int:
        """Questions that both answered."""
        return sum(self.counts.values())


def change_of(before: Answer, after: Answer) -> Change:
    """What became of one question; an answer that failed is neither help nor harm."""
    if "failed" in (before.status, after.status):
        return "failed"
    was, is_now = bool(before.correct), bool(after.correct)
    return "unchanged" if was == is_now else "helped" if is_now else "hurt"


def changes_of(
    answers: Mapping[tuple[str, str], Answer],
    samples: Sequence[str],
    *,
    before: str,
    after: str,
    shown: Mapping[Change, int] = SHOWN,
) -> Changes:
    """The changes between two cells, by id, over the samples that both were asked."""
    found: dict[Change, list[ChangedAnswer]] = {change: [] for change in SHOWN}
    for sample in samples:
        pair = answers.get((before, sample)), answers.get((after, sample))
        if pair[0] is None or pair[1] is None:
            continue
        change = change_of(pair[0], pair[1])
        found[change].append(ChangedAnswer(sample_id=sample, change=change, before=pair[0], after=pair[1]))
    drawn = [one for change, some in found.items() for one in sorted(some, key=_draw)[: shown.get(change, 0)]]
    return Changes(counts={change: len(some) for change, some in found.items()}, shown=tuple(drawn))


def _draw(one: ChangedAnswer) -> tuple[bool, bytes]:
    """Of the unchanged those first whose words changed."""
    same = one.before.parsed == one.after.parsed and one.before.raw == one.after.raw
    return same, hashlib.sha256(one.sample_id.encode()).digest()
