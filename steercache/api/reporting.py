"""A stored sweep as one HTML page."""

import re
from dataclasses import dataclass
from pathlib import Path

from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID
from steercache.queries.session import Session
from steercache.report.page import save_page, sweep_page, verdict
from steercache.sweeps.find import count_namesakes, read_sweep
from steercache.sweeps.table import SweepTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A page about a sweep: its file, the table that it shows, a sentence for every row of the last split, and how many other
    sweeps of the cache have the same name."""

    path: Path
    table: SweepTable
    verdicts: tuple[str, ...]
    n_namesakes: int


def page_path(report: SweepTable, root: Path) -> Path:
    """Default path of the page of a sweep: below the cache's `pictures/`."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", report.name).strip("-.")
    return root / "pictures" / f"{plain}-{report.sweep_id[:SHORT_ID]}.html"


def report_text(session: Session, sweep: str) -> str:
    """The page about `sweep` as HTML; see `Cache.report`."""
    return sweep_page(read_sweep(session, sweep))


def write_report(session: Session, sweep: str, path: Path | None) -> Report:
    """Write the page about `sweep`; see `Cache.report`."""
    found = read_sweep(session, sweep)
    file = path or page_path(found, session.cache.root)
    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{file.name!r} is not a .html file", hint=f"name it {file.stem or 'report'}.html")
    return Report(
        path=save_page(found, file),
        table=found,
        verdicts=tuple(verdict(row) for row in found.splits[-1].rows),
        n_namesakes=count_namesakes(session, found),
    )
