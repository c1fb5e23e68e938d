"""Workers as processes of this machine."""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from steercache.core.errors import BudgetError, SteercacheError
from steercache.engines.crew import EngineOptions, R, T, Work, Worker

AHEAD = 3  # tasks handed over for each worker: `wait` looks through all of them each time one is done
_worker: Worker[Any, Any] | None = None  # this process's own, made by `_start`
_refusal: SteercacheError | None = (
    None  # why there is none: an error of the initializer itself would not reach the user
)


def work_here(work: Work[T, R], options: EngineOptions) -> None:
    """Do all tasks in `options.workers` child processes, no more than there are tasks.

    Raises:
        SteercacheError: what a worker raised. BudgetError: a worker died.
    """
    n = min(options.workers, len(work.tasks))
    context = multiprocessing.get_context("spawn")
    known: set[int] = set()
    with ProcessPoolExecutor(n, mp_context=context, initializer=_start, initargs=(work.start,)) as pool:
        try:
            waiting, running = iter(work.tasks), dict[Future[Any], T]()
            while True:
                for task in islice(waiting, AHEAD * n - len(running)):
                    running[pool.submit(_run, task)] = task  # may find a worker dead already
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    process, about, result = future.result()
                    if process not in known:
                        known.add(process)
                        work.on_worker(about)
                    work.on_done(running.pop(future), result)
        except BrokenProcessPool as error:
            raise BudgetError(  # most often for want of memory
                "a worker died; what was done by then is kept",
                place=work.name,
                hint="look at its messages above, then run the same again (fewer workers need less memory)",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(start: Callable[[], Worker[Any, Any]]) -> None:
    global _worker, _refusal
    try:
        _worker = start()
    except SteercacheError as error:
        _refusal = error


def _run(task: Any) -> tuple[int, Mapping[str, Any], Any]:
    if _refusal is not None:
        raise _refusal
    if _worker is None:
        raise RuntimeError("the worker was not started")
    result = _worker.run(task)
    return multiprocessing.current_process().pid or 0, _worker.about, result
