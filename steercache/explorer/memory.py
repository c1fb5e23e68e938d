"""What a server remembers for a short while, so that a slider does not read the same things again."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """At most `n` values by key, each for `seconds`; safe in several threads."""

    def __init__(self, n: int, seconds: float) -> None:
        self._n, self._seconds = n, seconds
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`, made when it is not known."""
        with self._lock:
            known = self._values.get(key)
            if known is not None and time.monotonic() - known[0] < self._seconds:
                self._values.move_to_end(key)
                value: T = known[1]
                return value
        made = make()
        with self._lock:
            self._values[key] = (time.monotonic(), made)
            self._values.move_to_end(key)
            while len(self._values) > self._n:
                self._values.popitem(last=False)
        return made
