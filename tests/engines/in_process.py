"""Workers in the caller's own process: tasks and results are pickled as for others, and a worker can be made to die."""

import pickle
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from steercache.core.errors import SteercacheError
from steercache.engines.work import Died, Finished, News, Started, Worker


@dataclass
class InProcess:
    """Hands for `Crew`. The tasks with these numbers, counted from 0 in the order in which they are handed out, kill."""

    start: Callable[[], Worker[Any, Any]]
    deadly: frozenset[int] = frozenset()
    witness: str = "The test"
    tasks: list[Any] = field(default_factory=list)
    _workers: dict[int, Worker[Any, Any]] = field(default_factory=dict)
    _news: deque[News] = field(default_factory=deque)

    def hire(self) -> int:
        member = len(self._workers)
        self._workers[member] = worker = self.start()
        self._news.append(Started(member=member, refusal=None, place=f"worker {member}", about=worker.about))
        return member

    def give(self, member: int, task: Any) -> None:
        number, sent = len(self.tasks), pickle.loads(pickle.dumps(task))
        self.tasks.append(sent)
        if number in self.deadly:
            self._news.append(Died(member=member, error=ChildProcessError("a test's")))
            return
        try:
            result = pickle.loads(pickle.dumps(self._workers[member].run(sent)))
            self._news.append(Finished(member=member, error=None, result=result))
        except SteercacheError as error:
            self._news.append(Finished(member=member, error=error, result=None))

    def news(self, timeout_s: float) -> Sequence[News]:
        return [self._news.popleft()]

    def end(self, member: int) -> None:
        pass

    def shortage(self) -> str:
        return ""
