"""Workers as processes of this machine, each at the other end of a pipe."""

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

from steercache.core.errors import SteercacheError
from steercache.engines.work import Died, EngineOptions, Finished, News, Started, Worker

PATIENCE_S: Final = 5.0  # for a worker without a task to end by itself


@dataclass(frozen=True, slots=True)
class _Member:
    process: BaseProcess
    pipe: Connection


@contextmanager
def local_hands(start: Callable[[], Worker[Any, Any]], options: EngineOptions) -> Iterator["LocalHands"]:
    """Processes of this machine; none is left after the block."""
    hands = LocalHands(start)
    try:
        yield hands
    finally:
        hands.end_all()


class LocalHands:
    """Child processes, started anew: nothing of this process's memory is in them."""

    witness = "The system"

    def __init__(self, start: Callable[[], Worker[Any, Any]]) -> None:
        self._start, self._context = start, multiprocessing.get_context("spawn")
        self._members: dict[int, _Member] = {}
        self._started: set[int] = set()
        self._busy: set[int] = set()
        self._n_hired = 0

    def hire(self) -> int:
        """Start a process."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._start), daemon=True)
        process.start()
        theirs.close()  # else its end would not be noticed
        self._n_hired += 1
        self._members[self._n_hired] = _Member(process, ours)
        return self._n_hired

    def give(self, member: int, task: Any) -> None:
        """Send a task; that a worker is dead already is heard by `news`."""
        self._busy.add(member)
        with suppress(BrokenPipeError, ConnectionResetError):
            self._members[member].pipe.send((task,))

    def news(self, timeout_s: float) -> Sequence[News]:
        """What came through the pipes, and the end of each."""
        by_pipe = {one.pipe: member for member, one in self._members.items()}
        return [self._read(by_pipe[pipe]) for pipe in wait(list(by_pipe), timeout_s) if isinstance(pipe, Connection)]

    def end(self, member: int) -> None:
        """End a process: by itself where it waits for a task, else by a kill."""
        one = self._members.pop(member)
        one.pipe.close()
        if member in self._started - self._busy:
            one.process.join(PATIENCE_S)
        one.process.kill()
        one.process.join()
        one.process.close()

    def end_all(self) -> None:
        """End those that are left."""
        for member in list(self._members):
            self.end(member)

    def shortage(self) -> str:
        """Nothing: processes of this machine are started at once."""
        return ""

    def _read(self, member: int) -> News:
        one = self._members[member]
        try:
            said = one.pipe.recv()
        except (EOFError, OSError):
            one.process.join()
            code = one.process.exitcode
            self.end(member)
            return Died(member=member, error=ChildProcessError(_how_it_ended(code)))
        if member not in self._started:
            self._started.add(member)
            refusal, place, about = said
            return Started(member=member, refusal=refusal, place=place, about=about)
        self._busy.discard(member)
        error, result = said
        return Finished(member=member, error=error, result=result)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"the process was ended by {signal.Signals(-code).name}"
    return f"the process ended with status {code}"


def _serve(pipe: Connection, start: Callable[[], Worker[Any, Any]]) -> None:
    """A worker's process: says how its start went, then does tasks until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the coordinator's to act on
    worker: Worker[Any, Any] | None = None
    refusal: SteercacheError | None = None
    about: Mapping[str, Any] = {}
    try:
        worker = start()
        about = worker.about
    except SteercacheError as error:
        refusal = error
    with suppress(EOFError, ConnectionError):
        pipe.send((refusal, f"process {os.getpid()}", about))
        while worker is not None:
            (task,) = pipe.recv()
            pipe.send(_done(worker, task))


def _done(worker: Worker[Any, Any], task: Any) -> tuple[Exception | None, Any]:
    """The error, or None, and the result."""
    try:
        return None, worker.run(task)
    except SteercacheError as error:
        return error, None
    except Exception as error:
        error.add_note(f"In a worker:\n{traceback.format_exc()}")
        return (error if _can_be_sent(error) else RuntimeError(traceback.format_exc())), None


def _can_be_sent(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # what is wrong with it is of no interest
        return False
    return True
