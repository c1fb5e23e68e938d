"""What long work is doing and how long it should take, told to whoever shows it: a progress bar, a log, or nobody.

Like logging: code that works says what it does, and needs no callback for it. A listener hears what is announced in its own
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
    """Inside, `listener` hears what is announced, in place of whoever listened before.

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
