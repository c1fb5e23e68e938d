"""What every engine takes: tasks, how a worker is started, and what is told about both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from steercache.core.errors import SteercacheError, UsageError

EngineName = Literal["local", "ray"]
T = TypeVar("T")
R = TypeVar("R")
TaskT_contra = TypeVar("TaskT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Worker(Protocol[TaskT_contra, ResultT_co]):
    """One process's own model and data, made by `Work.start`."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What the coordinator has to know of this worker before it gets a task; small, and picklable."""
        ...

    def run(self, task: TaskT_contra) -> ResultT_co:
        """Do one task. Its result goes to the coordinator: small, and picklable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(Generic[T, R]):
    """`tasks`, in the order in which they are handed out; `start` is called once in each worker's process, and pickled for it.

    In the coordinator's process `on_worker` is called with each worker's `about` before it gets a task, `on_done` with each
    task that is done and its result, in the order in which they end, and `on_note` with remarks for people. A task may be done
    twice, where a worker dies after it and before it said so: tasks must bear that.
    """

    name: str
    tasks: Sequence[T]
    start: Callable[[], Worker[T, R]]
    on_done: Callable[[T, R], None]
    on_worker: Callable[[Mapping[str, Any]], None] = field(default=lambda about: None)
    on_note: Callable[[str], None] = field(default=lambda note: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Where and in how many processes work is done.

    `address` is that of a running Ray cluster ("auto": the one this machine belongs to; None: the one named by `RAY_ADDRESS`,
    or a cluster on this machine for the length of the work). `cpus_per_worker` and `gpus_per_worker` are what Ray sets aside
    for each worker, of a GPU a fraction if wanted.
    """

    name: EngineName = "local"
    workers: int = 1
    address: str | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"{self.workers} workers can do nothing", hint="ask for at least one")
        if self.cpus_per_worker < 0 or self.gpus_per_worker < 0:
            raise UsageError("a worker cannot have fewer than no CPUs or GPUs")
        if self.name == "local" and (self.address is not None or self.gpus_per_worker):
            raise UsageError(
                "an address and GPUs per worker are settings of the engine ray, the engine is local",
                hint="choose the engine ray, or leave them out",
            )

    @property
    def elsewhere(self) -> bool:
        """Whether work is done in other processes than the caller's own."""
        return self.name != "local" or self.workers > 1


ONE_HERE = EngineOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A worker is there, at `place` (for people); `refusal` says why not, and its process may then be ended."""

    member: int
    refusal: SteercacheError | None
    place: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A worker has done its task, or raised `error`."""

    member: int
    error: Exception | None
    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A worker's process is gone; `error` says what is known of that."""

    member: int
    error: Exception


News = Started | Finished | Died


class Hands(Protocol):
    """How an engine reaches its workers, each of which has a number and at most one task."""

    def hire(self) -> int:
        """Begin to start a worker; `news` tells how that went."""
        ...

    def give(self, member: int, task: Any) -> None:
        """Hand a task to a worker that has none."""
        ...

    def news(self, timeout_s: float) -> Sequence[News]:
        """Wait for something to happen; empty where nothing did."""
        ...

    def end(self, member: int) -> None:
        """End a worker; what it has in hand is lost, as by a kill."""
        ...

    def shortage(self) -> str:
        """What is there to start workers with, for people who wait for one."""
        ...

    @property
    def witness(self) -> str:
        """Who tells of deaths, for people."""
        ...
