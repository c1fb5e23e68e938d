"""What long work is doing and how long it should take, for a progress bar or a log.

Like logging: working code announces what it does, without a callback. A listener receives announcements of its own
thread and context, while it listens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, float | None], None]
"""Called with what is done now, and the seconds that it should take (None: not known)."""

_listener: ContextVar[Listener | None] = ContextVar("steercache_activity", default=None)


def announce(what: str, seconds: float | None = None) -> None:
    """Say what begins now, and how many seconds it should take."""
    listener = _listener.get()
    if listener is not None:
        listener(what, seconds)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Inside, `listener` receives the announcements, instead of the previous listener.

    >>> heard = []
    >>> with listening(lambda what, seconds: heard.append((what, seconds))):
    ...     announce("converting weights", 12.0)
    >>> announce("nobody listens")
    >>> heard
    [('converting weights', 12.0)]
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
