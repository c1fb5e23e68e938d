"""Workers as actors of a Ray cluster.

Ray starts processes, says when they die, and carries tasks and their small results. Data never passes through its object store:
workers write files themselves, below a root that every node sees.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steercache.core.errors import MissingExtraError, NotFoundError, SteercacheError, UsageError
from steercache.engines.work import Died, EngineOptions, Finished, News, Started, Worker

STORE_BYTES = 80 * 2**20  # of Ray's object store, which carries nothing of ours; close to the least that Ray takes
KNOCK_S = 5.0  # for a cluster's head to accept a connection


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


@contextmanager
def ray_hands(start: Callable[[], Worker[Any, Any]], options: EngineOptions) -> Iterator["RayHands"]:
    """Actors of a Ray cluster.

    Raises:
        NotFoundError: no cluster at that address. MissingExtraError: ray is not installed.
    """
    ray = _ray()
    with _connected(ray, options):
        yield RayHands(ray, start, options)


class RayHands:
    """Actors, and what each is waited for."""

    witness = "Ray"

    def __init__(self, ray: Any, start: Callable[[], Worker[Any, Any]], options: EngineOptions) -> None:
        self._ray, self._options = ray, options
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}  # by the reference to what it will say
        self._busy: dict[Any, int] = {}
        self._n_hired = 0
        resources = {"num_cpus": options.cpus_per_worker, "num_gpus": options.gpus_per_worker}
        self._hire = partial(ray.remote(**resources)(_Actor).remote, start, version("steercache"), str(Path.cwd()))

    def hire(self) -> int:
        """Ask for an actor."""
        self._n_hired += 1
        self._actors[self._n_hired] = actor = self._hire()
        self._starting[actor.about.remote()] = self._n_hired
        return self._n_hired

    def give(self, member: int, task: Any) -> None:
        """Call an actor."""
        self._busy[self._actors[member].run.remote(task)] = member

    def news(self, timeout_s: float) -> Sequence[News]:
        """What the next call to end has said."""
        done, _ = self._ray.wait([*self._busy, *self._starting], num_returns=1, timeout=timeout_s)
        return [self._read(ref) for ref in done]

    def end(self, member: int) -> None:
        """Kill an actor."""
        self._ray.kill(self._actors.pop(member))
        for refs in (self._starting, self._busy):
            for ref in [ref for ref, one in refs.items() if one == member]:
                del refs[ref]

    def shortage(self) -> str:
        """What each worker is to have, and what the cluster has free."""
        free = self._ray.available_resources()
        asked = f"{self._options.cpus_per_worker:g} CPUs and {self._options.gpus_per_worker:g} GPUs"
        return f", of {asked} each; the cluster has {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs free"

    def _read(self, ref: Any) -> News:
        starts = ref in self._starting
        member = self._starting.pop(ref) if starts else self._busy.pop(ref)
        try:
            said = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as died:
            del self._actors[member]
            return Died(member=member, error=died)
        if not starts:
            error, result = said
            return Finished(member=member, error=error, result=result)
        refusal, place, about = said
        return Started(member=member, refusal=refusal, place=place, about=about)


def _started(start: Callable[[], Worker[Any, Any]], release: str, folder: str) -> Worker[Any, Any]:
    """A worker, of the coordinator's version, and in its folder where this node has it (paths may be relative)."""
    if (here := version("steercache")) != release:
        raise UsageError(
            f"this node has steercache {here}, the coordinator {release}", hint="install the same on all nodes"
        )
    if Path(folder).is_dir():  # where nodes share no folders, whoever opens a relative path says what is not there
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
    except (
        ConnectionError,
        RuntimeError,
        ValueError,
        ray.exceptions.RayError,
    ) as error:  # RayError: its token is missing
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
