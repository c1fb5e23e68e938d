"""The end of a query that does not hear its interrupt: planning and single function calls in DuckDB cannot be stopped."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from steercache.core.errors import QueryError
from steercache.index.guard import Limits

GRACE_S = 10.0


@contextmanager
def watchdog(limits: Limits) -> Iterator[None]:
    """End this process some seconds after the time limit; for a command that does nothing but run one query."""
    timer = threading.Timer(limits.time_s + GRACE_S, _end, args=[limits])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(limits: Limits) -> None:
    error = QueryError(f"stopped after {limits.time_s:g} s", hint="ask for less, or --time-limit SECONDS")
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)
