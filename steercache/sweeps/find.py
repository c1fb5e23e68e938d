"""A stored sweep by name, as a table."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from steercache.benchmarks.comparison import Comparison
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.ids import resolve_name
from steercache.queries.session import Session
from steercache.sweeps.ledger import looks_of
from steercache.sweeps.record import PARTS, SweepRecord, read_record
from steercache.sweeps.table import SweepTable
from steercache.sweeps.tabulate import adjust_together, comparisons_of, sweep_table

_SWEEPS: Final = "SELECT sweep_id, name FROM sweeps ORDER BY created_at DESC, sweep_id"
_GRIDS_OF: Final = """
SELECT sweep_id, name FROM sweeps
WHERE manifest ->> '$.sweep' = $sweep AND manifest ->> '$.kind' = 'grid'
    AND manifest ->> '$.how.trust' IS NULL -- a pilot's answers are for predictions: no results of their own
ORDER BY created_at DESC, sweep_id
"""


def read_sweep(session: Session, wanted: str) -> SweepTable:
    """The table of the sweep that answers to a name, an id or a unique prefix; of several of one name the newest.

    A sweep manifest's name means its newest stored grid.

    Raises:
        NotFoundError: no such sweep; UsageError: its answers are neither right nor wrong, it has no baseline, or the sweep
        manifest has several tasks.
    """
    return read_sweep_and_record(session, wanted)[0]


def read_sweep_and_record(session: Session, wanted: str) -> tuple[SweepTable, SweepRecord]:
    """The table of a sweep, and what it is made of. Raises as `read_sweep`."""
    record = find_record(session, wanted)
    return adjust_together([sweep_table(record)], _beside(session, record))[0], record


def find_sweep_ids(session: Session, wanted: str) -> tuple[str, ...]:
    """Ids of the sweeps that a name, an id or a unique prefix means: several for a sweep manifest with several tasks, of each
    the newest stored one.

    Raises:
        NotFoundError: no such sweep.
    """
    known = _known(session)
    if not known:
        raise NotFoundError("there is no sweep yet", hint="run an evaluation or a grid first")
    if not any(wanted in pair for pair in known):
        tasks = _tasks_of(session, wanted)
        if tasks:
            return tuple(tasks.values())
    return (_resolved(wanted, known),)


def _resolved(wanted: str, known: Sequence[tuple[str, str]]) -> str:
    return resolve_name(
        wanted, known, noun="sweep", list_command='steercache query "select sweep_id, name from sweeps"'
    )


def _tasks_of(session: Session, manifest: str) -> dict[str, str]:
    """The newest stored grid of every task of a sweep manifest, by its name; ids."""
    found: dict[str, str] = {}
    for sweep_id, name in session.sql(_GRIDS_OF, sweep=manifest).fetchall():
        found.setdefault(str(name), str(sweep_id))
    return dict(sorted(found.items()))


def find_record(session: Session, wanted: str) -> SweepRecord:
    """The stored sweep itself. Raises as `read_sweep`."""
    known = _known(session)
    if not known:
        raise NotFoundError("there is no sweep yet", hint="run an evaluation or a grid first")
    sweep_id = _of_sweep_manifest(session, wanted, known) or _resolved(wanted, known)
    return replace(read_record(session, sweep_id), n_looks=looks_of(session.cache.root, sweep_id))


def count_namesakes(session: Session, table: SweepTable) -> int:
    """How many other sweeps have its name: every evaluation of a model on a benchmark has the same."""
    return sum(name == table.name for _, name in _known(session)) - 1


def _known(session: Session) -> list[tuple[str, str]]:
    if not session.cache.paths.sweeps.is_dir():
        return []
    return [(str(a), str(b)) for a, b in session.sql(_SWEEPS).fetchall()]


def _beside(session: Session, record: SweepRecord) -> dict[str, list[Comparison]]:
    """Comparisons of the sweep's other tasks, by split: p values are adjusted for all of them."""
    ids = {str(one) for choice in record.choices for one in choice.details.get("family", ())} - {record.sweep_id}
    others = [read_record(session, one) for one in sorted(ids) if session.cache.paths.sweep(one).is_dir()]
    return {s: [c for one in others if one.answers.get(s) for c in comparisons_of(one, s)] for s in PARTS}


def _of_sweep_manifest(session: Session, wanted: str, known: Sequence[tuple[str, str]]) -> str | None:
    """The newest stored grid of the sweep manifest named `wanted`; None where a stored sweep has that very name or id.

    Raises:
        UsageError: the manifest has several tasks, each of which is a stored sweep; names them.
    """
    if any(wanted in pair for pair in known):
        return None
    stored = _tasks_of(session, wanted)
    names = list(stored)
    if len(names) > 1:
        listed = ", ".join(map(repr, names))
        raise UsageError(
            f"the sweep {wanted!r} has {len(names)} tasks: {listed}",
            hint=f"steercache report html {shlex.quote(names[0])}",
        )
    return next(iter(stored.values()), None)
