"""Reading the files of a root while other processes write them: what a writer replaced meanwhile is read again."""

from collections.abc import Callable
from typing import Final, TypeVar

from steercache.cache.paths import RootPaths
from steercache.cache.states import FileStates, settled_states, states_of
from steercache.core.errors import DamagedError, NotFoundError

ATTEMPTS: Final = 5
_T = TypeVar("_T")


def read_while_files_change(paths: RootPaths, read: Callable[[FileStates], _T], *, settle: bool = True) -> _T:
    """`read`, given the states that the files had before; once more where it failed and the files have changed since.

    A writer replaces files and removes those that they supersede, so a file that was listed may be gone when it is opened.
    Without `settle`, what changed just now is not waited for.

    Raises:
        DamagedError: a file is missing or not readable, and no writer is the reason, or writers changed files `ATTEMPTS`
            times in a row.
    """
    for attempt in range(1, ATTEMPTS + 1):
        states = settled_states(paths) if settle and attempt < ATTEMPTS else states_of(paths)
        try:
            return read(states)
        except (DamagedError, NotFoundError, FileNotFoundError) as error:
            if attempt == ATTEMPTS or states_of(paths).of == states.of:
                if isinstance(error, FileNotFoundError):
                    raise DamagedError(f"a file is missing: {error}", hint="look with `cache verify`") from error
                raise
    raise AssertionError("the last attempt returns or raises")
