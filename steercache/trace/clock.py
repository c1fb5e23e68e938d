"""The date that chat templates see: frozen, so that a prompt depends on its data and not on the day it is made.

transformers gives templates a function `strftime_now`, which reads `datetime.now()` in one of its modules. While
`frozen_clock` is open, that module reads the frozen date; outside, and in other threads, it reads the real clock.
"""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers.utils import chat_template_utils

from steercache.core.errors import MissingExtraError


@dataclass(slots=True)
class ClockReadings:
    """How often the frozen clock was read while it was open."""

    now: datetime.datetime
    n: int = 0


_frozen: ContextVar[ClockReadings | None] = ContextVar("frozen_template_clock", default=None)


class _TemplateDatetime:
    """Stands for `datetime.datetime` in transformers' module of chat templates."""

    @staticmethod
    def now(tz: datetime.tzinfo | None = None) -> datetime.datetime:
        readings = _frozen.get()
        if readings is None:
            return datetime.datetime.now(tz)
        readings.n += 1
        return readings.now.replace(tzinfo=tz)

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime.datetime, name)


@contextmanager
def frozen_clock(date: datetime.date) -> Iterator[ClockReadings]:
    """Templates rendered in this context see midnight of `date`; the readings say whether one looked at the clock."""
    _install()
    readings = ClockReadings(now=datetime.datetime.combine(date, datetime.time()))
    token = _frozen.set(readings)
    try:
        yield readings
    finally:
        _frozen.reset(token)


@lru_cache(maxsize=1)
def _install() -> None:
    """Put our clock into transformers' module, once per process, and check that templates read it.

    Raises:
        MissingExtraError: this version of transformers reads the time elsewhere.
    """
    module: Any = chat_template_utils
    module.datetime = _TemplateDatetime()
    token = _frozen.set(ClockReadings(now=datetime.datetime(1999, 1, 2)))
    try:
        rendered, _ = module.render_jinja_template(
            conversations=[[{"role": "user", "content": ""}]], chat_template="{{ strftime_now('%Y-%m-%d') }}"
        )
    finally:
        _frozen.reset(token)
    if rendered != ["1999-01-02"]:
        raise MissingExtraError(
            "the clock of chat templates cannot be frozen in this version of transformers",
            hint="pip install --upgrade transformers",
        )
