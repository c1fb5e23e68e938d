"""Workers as actors of a Ray cluster: replaced where they die, and what they had in hand is done again.

Ray starts processes, says when they die, and carries tasks and their small results. Data never passes through its object store:
workers write files themselves, below a root that every node sees.
"""

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic

from steercache.core.errors import BudgetError, MissingExtraError, NotFoundError, SteercacheError, UsageError
from steercache.engines.crew import EngineOptions, R, T, Work, Worker

STORE_BYTES = 80 * 2**20  # of Ray's object store, which carries nothing of ours; close to the least that Ray takes
MOST_TRIES = 5  # of one task, and of starting workers without any task done in between
KNOCK_S = 5.0  # for a cluster's head to accept a connection
PATIENCE_S = 60.0  # without news, before people are told what is being waited for


@dataclass(frozen=True, slots=True)
class _Member:
    """One worker: its actor, and where it runs (known once it has started)."""

    actor: Any
    place: str = "a worker"


class _Actor:
    """One worker's process. Errors of ours are results: Ray would wrap them."""

    def __init__(self, start: Callable[[], Worker[Any, Any]], release: str, folder: str) -> None:
        self._worker: Worker[Any, Any] | None = None
        self._refusal: SteercacheError | None = None
        try:
            self._worker = _started(start, release, folder)
        except SteercacheError as error:
            self._refusal = error

    def about(self) -> tuple[SteercacheError | None, str, Mapping[str, Any]]:
        """Why there is no worker here (or None), the place, and what the coordinator has to know of the worker."""
        place = f"node {_ray().util.get_node_ip_address()}, process {os.getpid()}"
        return self._refusal, place, {} if self._worker is None else self._worker.about

    def run(self, task: Any) -> tuple[SteercacheError | None, Any]:
        """The error, or None, and the result."""
        if self._worker is None:
            raise RuntimeError("the worker was not started")
        try:
            return None, self._worker.run(task)
        except SteercacheError as error:
            return error, None


def work_on_ray(work: Work[T, R], options: EngineOptions) -> None:
    """Do all tasks on a Ray cluster, with `options.workers` actors, no more than there are tasks.

    A worker that refuses to start (other numerics, files that its node does not see) is left out with a note; others work.

    Raises:
        SteercacheError: what a worker raised at a task, or what all of them refused for. BudgetError: workers die at one task,
        or at their start, again and again. NotFoundError: no cluster at that address. MissingExtraError: ray is not installed.
    """
    ray = _ray()
    with _connected(ray, options):
        crew = _Crew(ray, work, options)
        try:
            crew.work()
        finally:
            crew.dismiss()


class _Crew(Generic[T, R]):
    """The coordinator's view: who starts, who is busy with what, and what waits."""

    def __init__(self, ray: Any, work: Work[T, R], options: EngineOptions) -> None:
        self._ray, self._job, self._options = ray, work, options
        self._waiting = deque(range(len(work.tasks)))
        self._starting: dict[Any, _Member] = {}
        self._busy: dict[Any, tuple[_Member, int]] = {}
        self._idle: list[_Member] = []
        self._refusals: list[SteercacheError] = []
        self._tries: Counter[int] = Counter()
        self._failed_starts = 0
        resources = {"num_cpus": options.cpus_per_worker, "num_gpus": options.gpus_per_worker}
        self._hire = partial(ray.remote(**resources)(_Actor).remote, work.start, version("steercache"), str(Path.cwd()))

    def work(self) -> None:
        for _ in range(min(self._options.workers, len(self._job.tasks))):
            self._start_one()
        while self._waiting or self._busy:
            if not (self._starting or self._busy or self._idle):
                raise self._refusals[0]
            done, _ = self._ray.wait([*self._busy, *self._starting], num_returns=1, timeout=PATIENCE_S)
            if not done:
                self._say_what_is_missing()
            for ref in done:
                self._welcome(ref) if ref in self._starting else self._take(ref)
            while self._waiting and self._idle:
                self._hand_out(self._idle.pop(), self._waiting.popleft())

    def dismiss(self) -> None:
        """End every worker; what one has in hand is lost, as by a kill."""
        busy = (member for member, _ in self._busy.values())
        for member in (*self._starting.values(), *busy, *self._idle):
            self._ray.kill(member.actor)

    def _start_one(self) -> None:
        member = _Member(self._hire())
        self._starting[member.actor.about.remote()] = member

    def _hand_out(self, member: _Member, task: int) -> None:
        self._tries[task] += 1
        self._busy[member.actor.run.remote(self._job.tasks[task])] = member, task

    def _welcome(self, ref: Any) -> None:
        """A worker has started, refused, or died of it."""
        member = self._starting.pop(ref)
        try:
            refusal, place, about = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            self._failed_starts += 1
            if self._failed_starts >= MOST_TRIES:
                raise self._deaths(f"workers died {self._failed_starts} times as they started", error) from error
            self._start_one()
            return
        if refusal is not None:
            self._refusals.append(refusal)
            self._ray.kill(member.actor)
            self._job.on_note(f"{place} is left out: {refusal}")
            return
        self._job.on_worker(about)
        self._idle.append(_Member(member.actor, place))

    def _take(self, ref: Any) -> None:
        """A task is done, or its worker has died."""
        member, task = self._busy.pop(ref)
        try:
            error, result = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as died:
            if self._tries[task] >= MOST_TRIES:
                raise self._deaths(f"{self._tries[task]} workers died at the same task", died) from died
            self._job.on_note(f"{member.place} died; another takes its place, and what it had in hand is done again")
            self._waiting.appendleft(task)
            self._start_one()
            return
        if error is not None:
            raise error
        self._failed_starts = 0
        self._job.on_done(self._job.tasks[task], result)
        self._idle.append(member)

    def _deaths(self, what: str, error: Exception) -> BudgetError:
        return BudgetError(
            f"{what}; what was done by then is kept. Ray says: {' '.join(str(error).split())[:600]}",
            place=self._job.name,
            hint="most often a process needs more memory than its node has: fewer workers to a node (more CPUs for each)",
        )

    def _say_what_is_missing(self) -> None:
        if self._starting and not self._busy:
            free = self._ray.available_resources()
            asked = f"{self._options.cpus_per_worker:g} CPUs and {self._options.gpus_per_worker:g} GPUs"
            self._job.on_note(
                f"waiting for {len(self._starting)} workers to start, of {asked} each; the cluster has"
                f" {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free"
            )


def _started(start: Callable[[], Worker[Any, Any]], release: str, folder: str) -> Worker[Any, Any]:
    """A worker, in the coordinator's folder (paths may be relative) and of its version."""
    if (here := version("steercache")) != release:
        raise UsageError(
            f"this node has steercache {here}, the coordinator {release}", hint="install the same on all nodes"
        )
    if not Path(folder).is_dir():
        raise NotFoundError(
            f"the coordinator's folder {folder} is not on this node",
            hint="work from a folder on a file system that all nodes share",
        )
    os.chdir(folder)
    return start()


@contextmanager
def _connected(ray: Any, options: EngineOptions) -> Iterator[None]:
    """A connection to a cluster: the caller's own where there is one, which is left as it is."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = options.address or os.environ.get("RAY_ADDRESS")
    if address not in (None, "auto", "local"):
        _knock(address)
    here = {"num_cpus": max(options.workers, os.cpu_count() or 1), "object_store_memory": STORE_BYTES}
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **({} if address else here),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address or "this machine", error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises NotFoundError where nobody listens: Ray itself would go on trying for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> NotFoundError:
    return NotFoundError(
        f"no Ray cluster could be reached: {' '.join(str(error).split())[:300]}",
        place=address,
        hint="start one with Ray's own command `ray start`, or leave the address out",
    )


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            "the engine ray needs ray, which is not installed", hint="pip install 'steercache[ray]'"
        ) from error
    return ray
