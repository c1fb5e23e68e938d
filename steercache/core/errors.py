"""Every error a user can meet, in one tree.

    SteercacheError                 exit code
    ├── UsageError                  2   the call's own words are off
    ├── ManifestError               3   one or more documents are wrong: every problem at once
    ├── QueryError                  3   SQL or its header or bindings are wrong
    ├── NotFoundError               4   a run, vector, query, model or file that is not there
    ├── DamagedError                5   the cache's files contradict each other
    ├── MissingExtraError           6   an optional package is not installed
    ├── BusyError                   7   another process holds what is needed
    ├── BudgetError                 8   it would exceed a limit, or the disk is full
    └── PartlyFailedError           9   the work ended, but some samples failed and are named

Grouped by what a caller would do about them. An error is data: `message` says what is wrong, `place` where, `hint` the
next command to try. A crash that is none of these is our bug and exits with 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steercache.core.excerpts import without_middle

# Values are quoted as `core.excerpts.excerpt` shortens them. These are for what quotes them whole nevertheless.
MAX_MESSAGE_CHARS = 4000
MAX_PLACE_CHARS = 4200  # the longest path, and a line number
MAX_PROBLEM_CHARS = 1000
MAX_LOC_CHARS = 300


class SteercacheError(Exception):
    """The root: something a user, a file, a model or a machine caused. Never raised itself: each error has a class with an exit
    code."""

    exit_code = 1

    def __init__(self, message: str, *, place: str | None = None, hint: str | None = None) -> None:
        message = without_middle(message, MAX_MESSAGE_CHARS)
        super().__init__(message)
        self.message = message
        self.place = place if place is None else without_middle(place, MAX_PLACE_CHARS)
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"{self.place}: {self.message}" if self.place else self.message]
        if self.hint:
            lines.append(f"try: {self.hint}")
        return "\n".join(lines)


class SteercacheWarning(UserWarning):
    """Nothing is wrong, but a person would rather know; at the terminal one line, in Python an ordinary warning."""


class UsageError(SteercacheError):
    """The call's own words are off: an unknown option value, a layer that the model does not have."""

    exit_code = 2


class UnreachableError(UsageError):
    """A store on the network did not answer, again and again: a later call, or another machine, may get through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with one document: `loc` is a dotted path such as `layers.3`, `kind` a stable word for tests.

    `file` and `line` (from 1) are its place, if it is in a file.
    """

    loc: str
    kind: str
    message: str
    file: str | None = None
    line: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "loc", without_middle(self.loc, MAX_LOC_CHARS))
        object.__setattr__(self, "message", without_middle(self.message, MAX_PROBLEM_CHARS))

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (where, self.loc or "(document)", self.message) if part)


class ManifestError(SteercacheError):
    """One or more documents are wrong; `problems` names every one of them."""

    exit_code = 3

    def __init__(
        self, message: str, *, problems: Sequence[Problem] = (), place: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, place=place, hint=hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [f"{self.place}: {self.message}" if self.place else self.message]
        lines += [f"  {problem}" for problem in self.problems]
        if self.hint:
            lines.append(f"try: {self.hint}")
        return "\n".join(lines)


class QueryError(SteercacheError):
    """SQL, a query's header or its bindings are wrong, or the query went over its limits."""

    exit_code = 3


class NotFoundError(SteercacheError):
    """What was named is not there; the hint lists what is."""

    exit_code = 4


class DamagedError(SteercacheError):
    """Files of the cache contradict each other: a short shard, a checksum that differs, a missing Parquet file."""

    exit_code = 5


class MissingExtraError(SteercacheError):
    """An optional package is not installed; the hint is the pip command."""

    exit_code = 6


class BusyError(SteercacheError):
    """Another process holds the run or the index; the message says which."""

    exit_code = 7


class BudgetError(SteercacheError):
    """It would exceed a limit that was set, or the disk is full. What was committed before stays."""

    exit_code = 8


class PartlyFailedError(SteercacheError):
    """The work ended, but some samples failed; each is named in the result."""

    exit_code = 9
