"""Builds on a Ray cluster of several raylets, killed at random: workers, nodes, the coordinator.

`python -m tests.engines.kill_harness --kills 200` runs until so many kills hit something that was alive; the slow tests run
a few. With `--root s3` the builds go into a bucket of moto's server, and workers share no folder.
Every build that ends equals an undisturbed one byte for byte, and its index an index that is built from the files.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
from ray.cluster_utils import Cluster

from steercache.cache.handle import open_cache
from steercache.cache.remove import collect
from steercache.cache.scratch import scratch_folder
from steercache.cache.verify import verify_root
from steercache.engines.on_ray import STORE_BYTES
from tests.cache.contents import files_of, tables_of
from tests.exchange.stores import BUCKET, environment, moto
from tests.objects.recorded import comparable, objects_of
from tests.remote_builds import objects_in_bucket
from tests.tracing import SmallTrace, write_small_trace

N_NODES = 2
FEW = ("worker", "node", "coordinator")
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
BUILD = """
import sys
from steercache.engines.crew import EngineOptions
from tests.remote_builds import build_at
from tests.tracing import SmallTrace
from pathlib import Path
folder, root, mirror, address, n = sys.argv[1:]
options = EngineOptions(name="ray", address=address, workers=int(n))
trace, more = SmallTrace(folder=Path(folder)), {"engine": options, "on_note": lambda note: print(note, file=sys.stderr)}
if "://" in root:
    build_at(root, trace, Path(mirror), **more)
else:
    trace.build(Path(root), **more)
"""
RootKind = Literal["file", "s3"]


@dataclass
class Harness:
    """A cluster, the coordinator's process, and what was killed so far."""

    cluster: Cluster
    trace: SmallTrace
    log: Path
    moments: random.Random
    nodes: list[Any] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    coordinator: subprocess.Popen[bytes] | None = None

    def begin(self, root: "Root") -> None:
        """Start a coordinator."""
        with self.log.open("ab") as log:
            places = [self.trace.folder, root.name, root.folder, self.cluster.address]
            command = [sys.executable, "-c", BUILD, *places, N_NODES]
            self.coordinator = subprocess.Popen([str(part) for part in command], stderr=log, stdout=log)

    def ended(self) -> int | None:
        """The coordinator's exit status; None while it runs."""
        return None if self.coordinator is None else self.coordinator.poll()

    def kill(self, what: str) -> None:
        """Kill one of them, if there is one."""
        if what == "coordinator" and self.coordinator is not None and self.ended() is None:
            self.coordinator.kill()
            self.coordinator.wait()
            self.killed[what] += 1
        elif what == "worker" and (pids := list(_workers())):
            os.kill(self.moments.choice(pids), signal.SIGKILL)
            self.killed[what] += 1
        elif what == "node":
            node = self.nodes.pop(self.moments.randrange(len(self.nodes)))
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(**NODE))
            self.killed[what] += 1


def _workers() -> Iterator[int]:
    for process in psutil.process_iter(["cmdline"]):
        if any(part.startswith("ray::_Actor") for part in process.info["cmdline"] or ()):
            yield process.pid


@contextmanager
def harness(folder: Path, *, seed: int) -> Iterator[Harness]:
    """A head that holds no workers, and nodes of one CPU each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    trace = write_small_trace(folder / "trace", n=60)
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    made = Harness(cluster=cluster, trace=trace, log=folder / "log", moments=random.Random(seed))
    made.nodes = [cluster.add_node(**NODE) for _ in range(N_NODES)]
    try:
        yield made
    finally:
        if made.coordinator is not None and made.coordinator.poll() is None:
            made.coordinator.kill()
        cluster.shutdown()


@dataclass(frozen=True)
class Root:
    """Where a build goes: a folder, or an address with the folder of its mirror."""

    name: str
    folder: Path

    def check(self, undisturbed: Path) -> None:
        """Raises AssertionError where what lies there is not what lies in an undisturbed folder."""
        if "://" in self.name:
            assert comparable(objects_in_bucket(self.name)) == comparable(objects_of(undisturbed)), self.name
        else:
            collect(open_cache(self.folder))
            assert files_of(self.folder) == files_of(undisturbed), self.name
            assert [f for checked in verify_root(open_cache(self.folder)) for f in checked.findings] == []
        assert tables_of(self.folder) == tables_of(undisturbed), self.name


@contextmanager
def roots(kind: RootKind, folder: Path) -> Iterator[Callable[[int], Root]]:
    """Empty roots of a kind, by number."""
    os.environ["STEERCACHE_SCRATCH"] = str(folder / "scratch")
    if kind == "file":
        yield lambda n: Root(str(folder / f"root{n}"), folder / f"root{n}")
        return
    with moto() as port:
        os.environ |= environment(port)
        yield lambda n: Root(f"s3://{BUCKET}/root{n}", folder / f"root{n}")


def run(folder: Path, *, n_kills: int, seed: int = 0, longest_s: float = 12.0, kind: RootKind = "file") -> Counter[str]:
    """Kill until `n_kills`, and let the last build end. Raises AssertionError where a build's files are not another's."""
    with roots(kind, folder) as root_number, harness(folder, seed=seed) as it:
        it.trace.build(folder / "undisturbed")
        n_roots = 0
        while sum(it.killed.values()) < n_kills:
            root, n_roots = root_number(n_roots), n_roots + 1
            it.begin(root)
            while it.ended() != 0:
                if it.ended() is not None:  # killed, or it gave up, as after deaths at one shard again and again
                    it.begin(root)
                end = time.monotonic() + it.moments.uniform(0.0, longest_s)
                while it.ended() is None and time.monotonic() < end:
                    time.sleep(0.02)
                if it.ended() is None and sum(it.killed.values()) < n_kills:
                    it.kill(it.moments.choice(FEW))
            root.check(folder / "undisturbed")
        with scratch_folder() as own:  # removes what the dead ones left
            assert list(own.parent.iterdir()) == [own] or kind == "file"
        return it.killed + Counter(builds=n_roots)


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds on Ray, killed at random.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=12.0, help="Longest time between two kills, in seconds.")
    parser.add_argument("--root", choices=("file", "s3"), default="file", help="Where the builds go.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        more = {"n_kills": asked.kills, "seed": asked.seed, "longest_s": asked.longest, "kind": asked.root}
        killed = run(Path(folder), **more)
        print(json.dumps(dict(killed) | {"seconds": round(time.monotonic() - started)}))


if __name__ == "__main__":
    main()
