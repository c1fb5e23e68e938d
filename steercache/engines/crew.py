"""The coordinator's view of work, the same for every engine: who starts, who is busy with what, and what waits.

A worker that dies, or is cut off from a store, is replaced, and what it had in hand is done again; one that refuses to start
(other numerics, files that it does not see) is left out with a note. Workers stay between calls, so that each loads its model
once.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Generic

from steercache.core.errors import BudgetError, SteercacheError, UnreachableError
from steercache.engines.local import local_hands
from steercache.engines.on_ray import ray_hands
from steercache.engines.work import ONE_HERE as ONE_HERE
from steercache.engines.work import Died, Finished, Hands, R, Started, T, Worker
from steercache.engines.work import EngineName as EngineName
from steercache.engines.work import EngineOptions as EngineOptions
from steercache.engines.work import Work as Work

MOST_TRIES: Final = 5  # of one task, and of starting workers without any task done in between
PATIENCE_S: Final = 60.0  # without news, before people are told what is being waited for


def do_work(work: Work[T, R], options: EngineOptions) -> None:
    """Do all tasks, with `options.workers` workers, no more than there are tasks.

    Raises:
        SteercacheError: what a worker raised at a task, or what all of them refused for; tasks that were done by then stay
        done. BudgetError: workers die at one task, or at their start, again and again. NotFoundError: no Ray cluster at that
        address. MissingExtraError: ray is not installed.
    """
    if work.tasks:
        with crew_of(work.name, work.start, options, on_worker=work.on_worker, on_note=work.on_note) as crew:
            crew.do(work.tasks, work.on_done)


@contextmanager
def crew_of(
    name: str,
    start: Callable[[], Worker[T, R]],
    options: EngineOptions,
    *,
    on_worker: Callable[[Mapping[str, Any]], None] = lambda about: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Iterator["Crew[T, R]"]:
    """Workers for the length of the block; none is started before there is a task. Raises as `do_work`."""
    with ExitStack() as stack:

        def reach() -> Hands:
            if options.name == "ray":
                return stack.enter_context(ray_hands(start, options))
            return stack.enter_context(local_hands(start, options))

        crew: Crew[T, R] = Crew(reach, options, name=name, on_worker=on_worker, on_note=on_note)
        try:
            yield crew
        finally:
            crew.dismiss()


class Crew(Generic[T, R]):
    """Workers that do one list of tasks after another. `reach` opens the way to them when there is a task."""

    def __init__(
        self,
        reach: Callable[[], Hands],
        options: EngineOptions,
        *,
        name: str,
        on_worker: Callable[[Mapping[str, Any]], None] = lambda about: None,
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        self._reach, self._options, self._name = reach, options, name
        self._reached: Hands | None = None
        self._on_worker, self._on_note = on_worker, on_note
        self._places: dict[int, str] = {}  # of workers that have started
        self._starting: set[int] = set()
        self._busy: dict[int, int] = {}  # the number of each one's task
        self._idle: list[int] = []
        self._waiting: deque[int] = deque()
        self._tries: Counter[int] = Counter()
        self._refusals: list[SteercacheError] = []
        self._failed_starts = 0

    @property
    def n_workers(self) -> int:
        """How many workers are wanted."""
        return self._options.workers

    @property
    def _hands(self) -> Hands:
        if self._reached is None:
            self._reached = self._reach()
        return self._reached

    def do(self, tasks: Sequence[T], on_done: Callable[[T, R], None]) -> None:
        """Do all tasks; `on_done` hears of each and its result as they end, and may append others. Raises as `do_work`."""
        self._waiting, self._tries, n_known = deque(range(len(tasks))), Counter(), len(tasks)
        n_there = len(self._starting) + len(self._idle) + len(self._refusals)
        for _ in range(min(self._options.workers, len(tasks)) - n_there):
            self._start_one()
        while True:
            while self._waiting and self._idle:
                self._hand_out(tasks, self._idle.pop(), self._waiting.popleft())
            if not (self._waiting or self._busy):
                return
            if not (self._starting or self._busy):
                raise self._refusals[0]
            news = self._hands.news(PATIENCE_S)
            if not news:
                self._say_what_is_missing()
            for one in news:
                if isinstance(one, Started):
                    self._welcome(one)
                elif isinstance(one, Died):
                    self._mourn(one)
                else:
                    self._take(one, tasks, on_done)
                    self._waiting.extend(range(n_known, len(tasks)))
                    n_known = len(tasks)

    def dismiss(self) -> None:
        """End every worker; what one has in hand is lost, as by a kill."""
        for member in (*self._starting, *self._busy, *self._idle):
            self._hands.end(member)
        self._starting.clear()
        self._busy.clear()
        self._idle.clear()

    def _start_one(self) -> None:
        self._starting.add(self._hands.hire())

    def _hand_out(self, tasks: Sequence[T], member: int, task: int) -> None:
        self._tries[task] += 1
        self._busy[member] = task
        self._hands.give(member, tasks[task])

    def _welcome(self, news: Started) -> None:
        self._starting.discard(news.member)
        self._places[news.member] = news.place
        if news.refusal is not None:
            self._refusals.append(news.refusal)
            self._hands.end(news.member)
            self._on_note(f"{news.place} is left out: {news.refusal}")
            return
        self._on_worker(news.about)
        self._idle.append(news.member)

    def _take(self, news: Finished, tasks: Sequence[T], on_done: Callable[[T, R], None]) -> None:
        task = self._busy.pop(news.member)
        if isinstance(news.error, UnreachableError) and self._tries[task] < MOST_TRIES:
            self._on_note(f"{self._places[news.member]} is cut off, and another takes its place: {news.error.message}")
            self._hands.end(news.member)
            self._waiting.appendleft(task)
            self._start_one()
            return
        self._idle.append(news.member)
        if news.error is not None:
            raise news.error
        self._failed_starts = 0
        on_done(tasks[task], news.result)

    def _mourn(self, news: Died) -> None:
        """A worker has died as it started, at a task, or between two."""
        if news.member in self._starting:
            self._starting.discard(news.member)
            self._failed_starts += 1
            if self._failed_starts >= MOST_TRIES:
                raise self._deaths(f"workers died {self._failed_starts} times as they started", news) from news.error
        elif news.member in self._busy:
            task = self._busy.pop(news.member)
            if self._tries[task] >= MOST_TRIES:
                raise self._deaths(f"{self._tries[task]} workers died at the same task", news) from news.error
            place = self._places[news.member]
            self._on_note(f"{place} died; another takes its place, and what it had in hand is done again")
            self._waiting.appendleft(task)
        else:
            self._idle.remove(news.member)
        self._start_one()

    def _deaths(self, what: str, news: Died) -> BudgetError:
        said = " ".join(str(news.error).split())[:600]
        return BudgetError(
            f"{what}; what was done by then is kept. {self._hands.witness} says: {said}",
            place=self._name,
            hint="most often a process needs more memory than its machine has: fewer workers (on Ray, more CPUs for each)",
        )

    def _say_what_is_missing(self) -> None:
        if self._starting and not self._busy:
            self._on_note(f"waiting for {len(self._starting)} workers to start{self._hands.shortage()}")
