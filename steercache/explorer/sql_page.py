"""SQL over the cache, in a process of its own that only reads, has a time limit, and reaches no file."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from steercache.api.cache import Cache
from steercache.api.querying import Limits, guessed, named_queries
from steercache.core.errors import BusyError, SteercacheError, UsageError
from steercache.explorer.asking import words
from steercache.explorer.cells import cells_of, numeric
from steercache.explorer.rendering import message_of, page

MAX_ROWS: Final = 500
AT_ONCE: Final = 2
_MAX_FIELDS: Final = 40
MEMORY_MIB: Final = 512
EXAMPLE: Final = "SELECT kind, count(*) AS n, count(row_idx) AS n_rows\nFROM tokens\nGROUP BY kind\nORDER BY n DESC"


class SqlPage:
    """The SQL box."""

    def __init__(self, cache: Cache, *, time_s: float) -> None:
        self._cache = cache
        self._limits = Limits(time_s=time_s, memory_mib=MEMORY_MIB, spill_mib=1024, rows=1_000_000)
        self._running = threading.BoundedSemaphore(AT_ONCE)

    async def page(self, request: Request) -> Response:
        """The box, and what the statement in it returned."""
        form = _form(request, await request.body()) if request.method == "POST" else {}
        return await _beside(lambda: self._answer(request, form))

    def _answer(self, request: Request, form: Mapping[str, str]) -> Response:
        library = named_queries()
        name = form.get("name", "") or words(request, "name") or ""
        query = library.get(name)
        params = {
            key: form.get(f"param-{key}", request.query_params.get(f"param-{key}", ""))
            for key in (query.params if query else ())
        }
        text = form.get("sql", "") or (EXAMPLE if query is None else query.text)
        shown: dict[str, Any] = {
            "columns": None,
            "rows": [],
            "numeric": [],
            "more": False,
            "trouble": None,
            "seconds": 0.0,
        }
        status = 200
        if request.method == "POST":
            begun = time.monotonic()
            try:
                shown |= self._asked(name if query is not None else text, params, typed=query is not None)
            except SteercacheError as error:
                status = 503 if isinstance(error, BusyError) else 400
                shown["trouble"] = message_of(error, self._cache.root)
            shown["seconds"] = time.monotonic() - begun
        return page(
            request,
            "sql.html",
            status=status,
            text=text,
            query=query,
            params=params,
            library=[one for one in library.values() if one.kind != "selection"],
            limit=MAX_ROWS,
            time_s=self._limits.time_s,
            **shown,
        )

    def _asked(self, text: str, params: Mapping[str, str], *, typed: bool) -> dict[str, Any]:
        if not text.strip():
            raise UsageError("there is no statement")
        bindings = {key: value if typed else guessed(value) for key, value in params.items() if value != ""}
        if not self._running.acquire(blocking=False):
            raise BusyError(f"{AT_ONCE} statements are running already: wait until one has ended")
        try:
            table = self._cache.head_isolated(text, MAX_ROWS + 1, bindings=bindings, limits=self._limits)
        finally:
            self._running.release()
        rows, n = cells_of(table.slice(0, MAX_ROWS))
        return {
            "columns": table.schema.names,
            "rows": rows,
            "numeric": numeric(table.schema),
            "more": table.num_rows > n,
        }


async def _beside(work: Callable[[], Response]) -> Response:
    """The result of `work`, done in a thread that ends with the process: the end of the server waits for no statement, whose
    own process ends when this one does."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Response] = loop.create_future()

    def settle(answer: Response | None, error: BaseException | None) -> None:
        if result.done():  # cancelled: nobody waits any more
            return
        if error is not None:
            result.set_exception(error)
        elif answer is not None:
            result.set_result(answer)

    def run() -> None:
        answer: Response | None = None
        failed: BaseException | None = None
        try:
            answer = work()
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, answer, failed)

    threading.Thread(target=run, daemon=True).start()
    return await result


def _form(request: Request, body: bytes) -> dict[str, str]:
    """The fields of a form as browsers send one. Raises UsageError for anything else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise UsageError("this is no form")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="replace")
    except ValueError:  # too many fields, or bytes that are not percent-encoded
        raise UsageError("this is no form") from None
    return {name: value.replace("\r\n", "\n") for name, value in pairs}
