"""Workers that do small things, and some that do not live long: what engines are tried with."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from steercache.core.errors import UnreachableError, UsageError
from steercache.engines.crew import Work


@dataclass(frozen=True)
class Squarer:
    """Squares numbers; -1 is an error of ours, -2 one of Python's; while `lives` has files, -3 kills the process and -4 finds
    no store."""

    log: Path

    @property
    def about(self) -> Mapping[str, Any]:
        return {"process": os.getpid()}

    def run(self, task: int) -> int:
        if task == -1:
            raise UsageError("minus one", place="here", hint="another number")
        if task == -2:
            raise ZeroDivisionError("minus two")
        if task == -3:
            die_once_of(self.log.parent / "lives")
        if task == -4:
            for life in sorted((self.log.parent / "lives").glob("*"))[:1]:
                life.unlink()
                raise UnreachableError("the store did not answer")
        with self.log.open("a") as log:
            log.write(f"{task}\n")
        return task * task


def die_once_of(lives: Path) -> None:
    """Die, and take one life."""
    for life in sorted(lives.glob("*")) if lives.exists() else []:
        life.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def squarer(log: Path) -> Squarer:
    return Squarer(log)


def refusing(log: Path, *, but: int) -> Squarer:
    """The first `but` workers start, others refuse."""
    for i in range(but):
        try:
            (log.parent / f"started{i}").open("x").close()
        except FileExistsError:
            continue
        return Squarer(log)
    raise UsageError("this worker computes other bits", place="here", hint="another machine")


def dying(log: Path) -> Squarer:
    """Dies while it starts, as long as there are lives."""
    die_once_of(log.parent / "lives")
    return Squarer(log)


def give_lives(folder: Path, n: int) -> None:
    (folder / "lives").mkdir()
    for i in range(n):
        (folder / "lives" / str(i)).touch()


@dataclass
class Told:
    """What the coordinator was told."""

    results: dict[int, int]
    workers: list[int]
    notes: list[str]

    def work(self, tasks: list[int], start: Callable[[], Squarer]) -> Work[int, int]:
        return Work(
            name="squares",
            tasks=tasks,
            start=start,
            on_done=self.results.__setitem__,
            on_worker=lambda about: self.workers.append(about["process"]),
            on_note=self.notes.append,
        )


def told() -> Told:
    return Told({}, [], [])


def starting(function: Callable[..., Squarer], folder: Path, **more: Any) -> Callable[[], Squarer]:
    return partial(function, folder / "log", **more)
