"""Progress of long work: a bar where a person looks on, a callback for programs, or nothing."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ProgressCallback = Callable[[str, int, int | None], None]
"""Called with what is being done, how many units are done, and how many there are (None: not known yet)."""

ProgressLike = ProgressCallback | bool | None
"""A callback; True for a bar; False for nothing; None for a bar in a notebook or at a terminal only."""


@contextmanager
def reporting(progress: ProgressLike) -> Iterator[ProgressCallback]:
    """The callback that `progress` means, for the length of the block; a bar goes away when the block ends."""
    if callable(progress):
        yield progress
    elif progress is False or (progress is None and not _someone_looks()):
        yield _nothing
    else:
        with _bar() as show:
            yield show


def _nothing(label: str, done: int, total: int | None) -> None:
    """Report nothing."""


def _someone_looks() -> bool:
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(label: str, done: int, total: int | None) -> None:
            bar.update(task, description=label, completed=done, total=total)

        yield show
