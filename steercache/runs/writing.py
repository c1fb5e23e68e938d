"""A thread that writes while the model computes: the next batch's forward overlaps this batch's copy to the disk."""

from collections.abc import Callable
from queue import Queue
from threading import Event, Thread
from types import TracebackType

from steercache.runs.threads import settle_helper

Job = Callable[[], None]
WAITING_JOBS = 2  # batches held in memory beside the one being computed


class WritingThread:
    """Runs jobs in order on one thread; the first error stops the work and is raised where the next job is handed in."""

    def __init__(self) -> None:
        self._jobs: Queue[Job | None] = Queue(maxsize=WAITING_JOBS)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, name="steercache-writer", daemon=True)

    def __enter__(self) -> "WritingThread":
        self._thread.start()
        settle_helper(self._run_there)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def put(self, job: Job) -> None:
        """Hand in a job; waits while enough are under way. Raises the error of an earlier one."""
        if self._error is not None:
            raise self._error
        self._jobs.put(job)

    def drain(self) -> None:
        """Wait until every job handed in has run, or was skipped because an earlier one failed."""
        done = Event()
        self._jobs.put(done.set)
        while self._error is None and not done.wait(0.05):
            pass

    def _run_there(self, call: Job) -> None:
        self.put(call)
        self.drain()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is None:
                try:
                    job()
                except BaseException as error:
                    self._error = error
