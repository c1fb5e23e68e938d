"""How often a test split was looked at: one JSON line per look, in the cache's root, added and never changed.

A test split that was looked at twenty times is a search split. `ledger_file` keeps the lines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from steercache.core.errors import DamagedError
from steercache.sweeps.ledger_file import HINT, Chain, open_to_add, read_chain

FILE_NAME: Final = "ledger.jsonl"
# Sets that are parts of another: splits are drawn within tasks, so their test rows are the whole set's.
WHOLE: Final[Mapping[str, str]] = MappingProxyType({"cv-bench-2d": "cv-bench", "cv-bench-3d": "cv-bench"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One look: at which split of which data set, under which rule, for what (a sweep, a cell), and when (UTC)."""

    dataset: str
    task: str | None
    rule: str
    split: str
    subject: str
    n: int
    at: str
    previous: str


def record_look(
    root: Path,
    *,
    dataset: str,
    rule: str,
    split: str,
    subject: str,
    n: int,
    task: str | None = None,
    once: bool = False,
) -> LedgerEntry:
    """Add a look to the ledger under `root`, durably, and return it; with `once` only if none of this subject is there, else
    that one is returned. Several processes may write at once.

    Raises:
        BudgetError: the disk is full or the root cannot be written; DamagedError: the ledger was altered.
    """
    path = root / FILE_NAME
    with open_to_add(path) as ledger:
        known = [look for look in _looks(ledger.chain, path) if once and look.subject == subject]
        if known:
            return known[0]
        look = LedgerEntry(
            dataset=dataset,
            task=task,
            rule=rule,
            split=split,
            subject=subject,
            n=n,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            previous=ledger.chain.last,
        )
        ledger.add({name: getattr(look, name) for name in LedgerEntry.__slots__})
    return look


def read_entries(root: Path, *, dataset: str | None = None, split: str | None = None) -> tuple[LedgerEntry, ...]:
    """All looks in order, or those at one data set or split; none if there is no ledger yet.

    Raises:
        DamagedError: a line was altered or taken out.
    """
    path = root / FILE_NAME
    looks = _looks(read_chain(path), path)
    return tuple(k for k in looks if dataset in (None, k.dataset) and split in (None, k.split))


def count_looks(root: Path, *, dataset: str, rule: str, split: str, task: str | None = None) -> int:
    """How often questions of this part of this data set were looked at, under this rule of splits.

    A look without a task was at all tasks, and one at a whole set was at its parts: both count, in either direction.

    Raises:
        DamagedError: a line was altered or taken out.
    """
    looks = [look for look in read_entries(root, split=split) if look.rule == rule]
    return sum(
        1 for look in looks if _share_rows(look.dataset, dataset) and (None in (look.task, task) or look.task == task)
    )


def looks_of(root: Path, subject: str) -> int | None:
    """How often the test split that `subject` (a sweep) was asked was looked at; None where the sweep did not look.

    Raises:
        DamagedError: a line was altered or taken out.
    """
    own = next((look for look in read_entries(root) if look.subject == subject), None)
    if own is None:
        return None
    return count_looks(root, dataset=own.dataset, rule=own.rule, split=own.split, task=own.task)


def _share_rows(one: str, other: str) -> bool:
    return one == other or WHOLE.get(one) == other or WHOLE.get(other) == one


def _looks(chain: Chain, path: Path) -> list[LedgerEntry]:
    looks = []
    for number, entry in enumerate(chain.entries, start=1):
        try:
            looks.append(LedgerEntry(**entry))
        except TypeError as error:
            raise DamagedError(
                f"entry {number} of the ledger is not valid: {error}", place=str(path), hint=HINT
            ) from error
    return looks
