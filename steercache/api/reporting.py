"""A stored sweep as one HTML page."""

import re
from pathlib import Path

from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID
from steercache.queries.session import Session
from steercache.report.page import save_page
from steercache.sweeps.find import read_sweep
from steercache.sweeps.table import SweepTable


def page_path(report: SweepTable, root: Path) -> Path:
    """Where the page of a sweep lies unless told otherwise: below the cache's `pictures/`."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", report.name).strip("-.")
    return root / "pictures" / f"{plain}-{report.sweep_id[:SHORT_ID]}.html"


def write_report(session: Session, sweep: str, path: Path | None) -> Path:
    """Write the page about `sweep`; see `Cache.report`."""
    found = read_sweep(session, sweep)
    file = path or page_path(found, session.cache.root)
    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{file.name!r} is not a .html file", hint=f"name it {file.stem or 'report'}.html")
    return save_page(found, file)
