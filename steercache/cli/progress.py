"""Progress of long work on stderr: a bar at a terminal, a line now and then elsewhere, an estimate before it begins."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from steercache.cli.streams import say
from steercache.core.activity import listening
from steercache.core.durations import duration_text

LOG_EVERY_S: Final = 30.0  # between lines where stderr is no terminal
LEAST_S: Final = 5.0  # shorter work is not announced in a line of its own


class OwnConsole(Console):
    """A console that leaves a reader who has gone to `LazyGroup.invoke`: rich would end the program with exit code 1."""

    def on_broken_pipe(self) -> None:
        """Hand the error on."""
        raise BrokenPipeError


stderr = OwnConsole(stderr=True, highlight=False)


def remaining_s(elapsed_s: float, share_done: float, expected_s: float | None) -> float | None:
    """Seconds left of work of which a share is done: what was expected at first, what is observed at last.

    None: nothing was expected, and nothing is done yet.

    >>> remaining_s(0.0, 0.0, 100.0), remaining_s(20.0, 0.5, 100.0), remaining_s(5.0, 0.0, None)
    (100.0, 40.0, None)
    """
    share = min(max(share_done, 0.0), 1.0)
    observed_s = elapsed_s / share if share > 0 else None
    if expected_s is None or observed_s is None:
        whole_s = observed_s if expected_s is None else expected_s
    else:
        whole_s = (1 - share) * expected_s + share * observed_s
    return None if whole_s is None else max(0.0, whole_s - elapsed_s)


class Bar:
    """What is done now, how much of it, and how long the rest should take. `shown` is the bar at a terminal (None: lines)."""

    def __init__(self, label: str, total: int | None, *, unit: str, shown: Progress | None, quiet: bool) -> None:
        self._label, self._done, self._total, self._unit = label, 0, total, unit
        self._shown, self._quiet = shown, quiet
        self._task = None if shown is None else shown.add_task(label, total=total)
        self._expected_s: float | None = None
        self._began = self._said = time.monotonic()
        self._first = 0  # units done when the clock began
        self._announced = ""

    @property
    def left_s(self) -> float | None:
        """Seconds that the work should still take (None: not known)."""
        n = 0 if self._total is None else self._total - self._first
        share = (self._done - self._first) / n if n > 0 else 0.0
        return remaining_s(time.monotonic() - self._began, share, self._expected_s)

    def advance(self, n: int = 1) -> None:
        """So many units more are done."""
        self.show(self._label, self._done + n, self._total)

    def show(self, label: str, done: int, total: int | None) -> None:
        """Say where the work stands, under another label if it has moved on."""
        if self._expected_s is None and (total != self._total or done < self._done):  # another piece of work
            self._began, self._first = time.monotonic(), done
        self._label, self._done, self._total = label, done, total
        self._refresh()

    def expect(self, what: str, seconds: float | None) -> None:
        """Say what begins, and how long it should take."""
        self._label, self._done, self._first = what, 0, 0
        self._expected_s, self._began = seconds, time.monotonic()
        if seconds is not None and seconds >= LEAST_S and not self._quiet:
            line = f"{what}: about {duration_text(seconds)}"
            if line != self._announced:
                self._say(line)
            self._announced = line
        self._refresh()

    def _refresh(self) -> None:
        if self._shown is not None and self._task is not None:
            self._shown.update(self._task, description=self._label, completed=self._done, total=self._total)
        elif not self._quiet and time.monotonic() - self._said >= LOG_EVERY_S:
            of = "" if self._total is None else f" {self._done:,} of {self._total:,}{self._unit and ' ' + self._unit}"
            left_s = self.left_s
            left = "" if left_s is None else f", about {duration_text(left_s)} left"
            self._say(f"{self._label}{of}{left}")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        if self._shown is None:
            say(line)
        else:
            self._shown.console.print(Text(line))


class _Left(ProgressColumn):
    """Time left, by the bar's own account."""

    bar: Bar | None = None

    def render(self, task: Task) -> Text:
        left_s = None if self.bar is None else self.bar.left_s
        return Text("" if left_s is None else f"about {duration_text(left_s)} left", style="progress.remaining")


@contextmanager
def progress_bar(label: str, *, total: int | None, unit: str, quiet: bool = False) -> Iterator[Bar]:
    """A bar on stderr that goes away when the work is done; where stderr is no terminal a line every `LOG_EVERY_S` seconds;
    nothing with `quiet`. Inside, what is announced (`core.activity`) is its label and its expected time."""
    if quiet or not stderr.is_terminal:
        bar = Bar(label, total, unit=unit, shown=None, quiet=quiet)
        with listening(bar.expect):
            yield bar
        return
    left = _Left()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeElapsedColumn(), left, console=stderr, transient=True) as shown:
        left.bar = bar = Bar(label, total, unit=unit, shown=shown, quiet=quiet)
        with listening(bar.expect):
            yield bar
