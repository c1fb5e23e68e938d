"""Work in a forked process that is cut at a chosen deletion, renaming or lock: a real SIGKILL, a real change in between.

Python tells an audit hook of each before it is done; a hook stays for the life of its process, hence the fork.
"""

import os
import signal
import sys
from collections.abc import Callable

DELETIONS = frozenset({"os.remove", "os.rmdir"})
RENAMINGS = frozenset({"os.rename"})
LOCKS = frozenset({"fcntl.flock"})


def killed_before(number: int, events: frozenset[str], work: Callable[[], object]) -> bool:
    """Do `work` in a forked process that dies before its `number`-th (from 1) of `events`; returns whether it came so far."""
    return _forked(number, events, lambda: os.kill(os.getpid(), signal.SIGKILL), work) == signal.SIGKILL


def interrupted_before(events: frozenset[str], meanwhile: Callable[[], object], work: Callable[[], object]) -> None:
    """Do `work` in a forked process, and `meanwhile` before the first of `events` in it."""
    assert _forked(1, events, meanwhile, work) == 0


def _forked(number: int, events: frozenset[str], act: Callable[[], object], work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        n_seen = 0

        def count(event: str, _: object) -> None:
            nonlocal n_seen
            if event in events:
                n_seen += 1
                if n_seen == number:
                    act()

        sys.addaudithook(count)
        work()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status
