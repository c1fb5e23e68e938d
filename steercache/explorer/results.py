"""Stored sweeps and evaluations: their tables, and the page of the report."""

from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from steercache.api.cache import Cache
from steercache.api.reporting import report_text
from steercache.core.errors import NotFoundError, UsageError
from steercache.explorer.memory import Remembered
from steercache.explorer.rendering import message_of, page

_SHOWN: Final = 500
# The report is one file with its style inside. It has no script, and is given none.
REPORT_CSP: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'; sandbox"
)


class Results:
    """Pages about sweeps."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._pages: Remembered[str] = Remembered(4, 60.0)

    def results(self, request: Request) -> Response:
        """Every sweep."""
        try:
            rows = self._cache.sweeps().to_arrow_table().to_pylist()
        except NotFoundError:
            rows = []
        return page(request, "results.html", sweeps=rows[:_SHOWN], n=len(rows))

    def result(self, request: Request) -> Response:
        """The table of one sweep."""
        sweep_id = request.path_params["sweep_id"]
        try:
            table = self._cache.table(sweep_id)
        except UsageError as error:  # an analysis, whose answers are neither right nor wrong
            message = message_of(error, self._cache.root)
            return page(request, "result.html", sweep_id=sweep_id, table=None, trouble=message)
        return page(request, "result.html", sweep_id=sweep_id, table=table, trouble=None)

    def report(self, request: Request) -> Response:
        """The report of one sweep, as `steercache report html` writes it."""
        sweep_id = request.path_params["sweep_id"]
        text = self._pages.get(sweep_id, lambda: report_text(self._cache.session, sweep_id))
        return HTMLResponse(text.encode(errors="replace"), headers={"Content-Security-Policy": REPORT_CSP})
