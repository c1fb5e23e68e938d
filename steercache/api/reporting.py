"""Stored sweeps as one HTML page."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steercache.analysis.findings import findings_of
from steercache.analysis.sample_cards import MAX_CARDS
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID, canonical_json
from steercache.queries.session import Session
from steercache.report.document import html_document
from steercache.report.page import save_text, sweep_body, title_of, verdict
from steercache.report.plain_page import plain_body
from steercache.report.side_by_side import SweepPart, side_by_side
from steercache.store.durable import write_file_atomically
from steercache.sweeps.find import count_namesakes, find_sweep_ids, read_sweep_and_record
from steercache.sweeps.stored_cells import read_stored_sweep
from steercache.sweeps.table import SweepTable

_MADE_BY: Final = "made_by.json"  # beside a sweep's manifest: the command that was typed


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedSweep:
    """One sweep of a page: its name and its table (None: its answers are neither right nor wrong, or it has only begun), a
    sentence for every row of the last split, and how many other sweeps of the cache have the same name."""

    sweep_id: str
    name: str
    table: SweepTable | None
    verdicts: tuple[str, ...]
    n_namesakes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A page and the sweeps that it is about."""

    path: Path
    sweeps: tuple[ReportedSweep, ...]


def page_path(root: Path, sweeps: Sequence[tuple[str, str]]) -> Path:
    """Default path of a page about sweeps (name, id): below the cache's `pictures/`."""
    name, sweep_id = sweeps[0]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    more = f"-and-{len(sweeps) - 1}-more" if len(sweeps) > 1 else ""
    return root / "pictures" / f"{plain}-{sweep_id[:SHORT_ID]}{more}.html"


def write_report(
    session: Session, sweeps: str | Sequence[str], path: Path | None, *, command: str | None = None
) -> Report:
    """Write the page about one sweep, or about several side by side; see `Cache.report`. `command` made it."""
    wanted = [sweeps] if isinstance(sweeps, str) else list(sweeps)
    if not wanted:
        raise UsageError("no sweep was named", hint="name at least one")
    ids = list(dict.fromkeys(one for name in wanted for one in find_sweep_ids(session, name)))
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path.name!r} is not a .html file", hint=f"name it {path.stem or 'report'}.html")
    page = {"This page": [command or f"steercache.open().report({wanted if len(wanted) > 1 else wanted[0]!r})"]}
    text, made = _page(session, ids, page)
    file = path or page_path(session.cache.root, [(one.name, one.sweep_id) for one in made])
    return Report(path=save_text(text, file), sweeps=made)


def report_text(session: Session, sweep: str) -> str:
    """The page about `sweep` as HTML; see `Cache.report`."""
    return _page(session, find_sweep_ids(session, sweep), {"This page": [f"steercache.open().report({sweep!r})"]})[0]


def _page(
    session: Session, ids: Sequence[str], page: Mapping[str, Sequence[str]]
) -> tuple[str, tuple[ReportedSweep, ...]]:
    """The page about sweeps as HTML, and what it shows of each; `page` says what made it."""
    made = [_part(session, one, page if len(ids) == 1 else {}, cards=max(4, MAX_CARDS // len(ids))) for one in ids]
    sweeps = tuple(found for found, _ in made)
    if len(made) > 1:
        return side_by_side([part for _, part in made], commands=page), sweeps
    found, part = made[0]
    return html_document(title_of(found.table) if found.table else found.name, part.body), sweeps


def _part(
    session: Session, sweep_id: str, commands: Mapping[str, Sequence[str]], *, cards: int
) -> tuple[ReportedSweep, SweepPart]:
    command = recorded_command(session.cache.paths.sweep(sweep_id))
    lines = {**commands, "This sweep": [command or "# The command was not recorded; the manifest has every setting."]}
    try:
        table, record = read_sweep_and_record(session, sweep_id)
    except UsageError as error:
        stored = read_stored_sweep(session, sweep_id)
        body = plain_body(stored, why=f"No table of right answers: {error.message}.", commands=lines)
        plain = ReportedSweep(sweep_id=sweep_id, name=stored.name, table=None, verdicts=(), n_namesakes=0)
        return plain, SweepPart(name=stored.name, table=None, body=body)
    body = sweep_body(table, findings_of(session, table, record, cards=cards), commands=lines)
    reported = ReportedSweep(
        sweep_id=sweep_id,
        name=table.name,
        table=table,
        verdicts=tuple(verdict(row) for row in table.splits[-1].rows),
        n_namesakes=count_namesakes(session, table),
    )
    return reported, SweepPart(name=table.name, table=table, body=body)


def record_command(session: Session, sweep_ids: Sequence[str], command: str) -> None:
    """Keep the command that ran these sweeps beside their answers. It is no part of what a sweep is."""
    for one in sweep_ids:
        folder = session.cache.paths.sweep(one)
        if folder.is_dir():
            write_file_atomically(folder / _MADE_BY, canonical_json({"command": command}))


def recorded_command(folder: Path) -> str | None:
    """The command that ran a sweep; None where it was run from Python, or by an older steercache."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return str(json.loads((folder / _MADE_BY).read_bytes())["command"])
    return None
