"""A cluster that is not there: what `steercache.engines.on_ray` calls of Ray, on a clock that runs ahead to the next event.

Only waiting is simulated. The coordinator's own work takes the time it takes, and moves the clock with it: a coordinator that
is too slow leaves workers idle here as it would there.
"""

import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class ActorDied(Exception):  # noqa: N818  # stands for ray.exceptions.RayActorError
    """The worker of a call is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How long things take on the cluster, in seconds, and how often it goes wrong."""

    shard_s: float = 60.0
    spread: float = 0.1  # of the logarithm of a shard's time
    straggler_share: float = 0.01
    straggler_factor: float = 5.0
    preempted_per_hour: float = 0.1  # of one worker
    start_s: float = 120.0  # of a worker: a node that boots, and a model that is read

    def shard_time(self, rng: random.Random) -> float:
        """Seconds for one shard."""
        slow = self.straggler_factor if rng.random() < self.straggler_share else 1.0
        return self.shard_s * slow * rng.lognormvariate(0.0, self.spread)


class Clock:
    """Simulated seconds: those skipped while everybody waited, and those that really passed beside the simulation's own."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._skipped = 0.0
        self.own_s = 0.0  # spent by the simulation itself, and not counted

    def now(self) -> float:
        return time.perf_counter() - self._begun - self.own_s + self._skipped

    def wait_until(self, moment: float) -> None:
        self._skipped += max(0.0, moment - self.now())

    def uncounted(self, work: Callable[[], Any]) -> Any:
        """Do something of the simulation's, which takes no time on this clock."""
        begun = time.perf_counter()
        try:
            return work()
        finally:
            self.own_s += time.perf_counter() - begun


@dataclass(eq=False, slots=True)
class _Call:
    """A call of an actor's method, which ends at a moment; `result` is an exception where the actor dies of it."""

    actor: "_Handle"
    result: Any


@dataclass(slots=True)
class Cluster:
    """Ray's names that `RayHands` uses. `serve(task)` is what a worker does with a task, on no time of this clock."""

    clock: Clock
    weather: Weather
    serve: Callable[[Any], Any]
    seed: int = 0
    n_died: int = 0
    lost_s: float = 0.0  # work of workers that died before it was done
    busy_s: float = 0.0  # work that was done
    late_s: float = 0.0  # between the end of a task and the coordinator's taking notice, over all tasks
    tail: list[float] = field(default_factory=list)  # moments at which tasks ended
    _events: list[tuple[float, int, _Call]] = field(default_factory=list)
    _serial: Any = field(default_factory=itertools.count)
    _rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._rng.seed(self.seed)
        self.exceptions = SimpleNamespace(RayActorError=ActorDied)

    exceptions: Any = None

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        return lambda _: SimpleNamespace(remote=lambda *_: _Handle(self))

    def wait(self, refs: Iterable[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        """The call that ends first; the simulation's own list of events stands for looking through `refs`."""
        while self._events:
            moment, _, call = heapq.heappop(self._events)
            if call.actor.killed:
                continue
            self.clock.wait_until(moment)
            self.late_s += self.clock.now() - moment
            return [call], []
        return [], []

    def get(self, call: _Call) -> Any:
        if isinstance(call.result, ActorDied):
            raise call.result
        return self.clock.uncounted(call.result)

    def kill(self, actor: "_Handle") -> None:
        actor.killed = True

    def available_resources(self) -> dict[str, float]:
        return {}

    def start(self, actor: "_Handle") -> _Call:
        return self._ends(self.weather.start_s, _Call(actor, lambda: (None, "a node", {})))

    def run(self, actor: "_Handle", task: Any) -> _Call:
        takes = self.weather.shard_time(self._rng)
        dies = self._rng.expovariate(max(self.weather.preempted_per_hour, 1e-12) / 3600)
        if dies < takes:
            self.n_died += 1
            self.lost_s += dies
            return self._ends(dies, _Call(actor, ActorDied("preempted")))
        self.busy_s += takes
        self.tail.append(self.clock.now() + takes)
        return self._ends(takes, _Call(actor, lambda: (None, self.serve(task))))

    def _ends(self, takes: float, call: _Call) -> _Call:
        heapq.heappush(self._events, (self.clock.now() + takes, next(self._serial), call))
        return call


@dataclass(eq=False, slots=True)
class _Handle:
    """An actor."""

    cluster: Cluster
    killed: bool = False

    @property
    def about(self) -> Any:
        return SimpleNamespace(remote=lambda: self.cluster.start(self))

    @property
    def run(self) -> Any:
        return SimpleNamespace(remote=lambda task: self.cluster.run(self, task))
