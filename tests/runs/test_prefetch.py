"""The next batch is made in the background: in order, no more than asked for, errors at their place."""

from pathlib import Path
from threading import Event, Lock
from typing import Any

import pytest

from steercache.cache.handle import open_cache
from steercache.core.errors import DamagedError
from steercache.core.examples import Example, ImageRef
from steercache.runs.engine import build_run
from steercache.runs.inputs import NamedDataset
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.plan import TraceJob, plan_run
from steercache.runs.prefetch import AHEAD, prefetched
from tests.models.tiny_images import picture
from tests.runs.pictures import write_pictures_trace

PATIENCE_S = 60.0  # a test that waits so long has failed


def test_results_come_in_order() -> None:
    assert list(prefetched(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    assert list(prefetched(lambda n: n, [])) == []


def test_the_next_one_is_made_while_this_one_is_in_use() -> None:
    began = [Event() for _ in range(5)]

    def make(n: int) -> int:
        began[n].set()
        return n

    for n in prefetched(make, range(5)):
        if n + 1 < 5:
            assert began[n + 1].wait(PATIENCE_S), "it is made although nobody has asked for it yet"


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_is_made_ahead_than_allowed(ahead: int) -> None:
    made, lock = [], Lock()

    def make(n: int) -> int:
        with lock:
            made.append(n)
        return n

    for n in prefetched(make, range(20), ahead=ahead):
        with lock:
            assert len(made) <= n + 1 + ahead
    assert made == list(range(20))


def test_an_error_comes_where_its_result_would_have() -> None:
    results = prefetched(lambda n: 10 // (3 - n), range(10))
    assert [next(results) for _ in range(3)] == [3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


class Fading:
    """Questions about pictures of which one breaks after it was read `good` times."""

    def __init__(self, n: int, *, breaks: int, good: int) -> None:
        self.n, self.breaks, self.good = n, breaks, good
        self.reads = [0] * n

    def _load(self, i: int) -> bytes:
        self.reads[i] += 1
        whole = picture(32, 32, seed=i).load()
        return whole[:300] if i == self.breaks and self.reads[i] > self.good else whole

    def __iter__(self) -> Any:
        for i in range(self.n):
            ref = ImageRef(name=f"{i}.png", load=lambda i=i: self._load(i))
            yield Example(dataset="fading", place=f"fading.jsonl:{i + 1}", text="The cat", images=(ref,))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_a_picture_that_breaks_while_it_is_traced_is_named_with_its_place_and_nothing_half_written_stays(
    tmp_path: Path,
) -> None:
    numerics = {"tokens_per_batch": 1, "threads": 1}
    trace = write_pictures_trace(tmp_path / "t", "llava", rows_per_shard=64, numerics=numerics)
    prepared = prepare_trace(trace.manifest, cache_root=tmp_path / "root", device="cpu")
    data = Fading(12, breaks=7, good=2)  # when it is planned, and when its tokens are read again
    job = prepared.job
    faded = TraceJob(
        manifest=job.manifest,
        datasets=(NamedDataset(name="fading", examples=data),),
        bundle=job.bundle,
        numerics=job.numerics,
    )
    cache = open_cache(tmp_path / "root", create=True)
    plan = plan_run(faded, cache=cache)
    shard = next(s for s in plan.document.shards if s.first_sample <= 7 < s.first_sample + s.n_samples)
    assert shard.shard_idx > 0
    with pytest.raises(DamagedError, match=r"fading\.jsonl:8: .*7\.png") as raised:
        build_run(cache, plan, PreparedTrace(job=faded, load=prepared.load, again=prepared.again))
    assert raised.value.hint
    assert not list((tmp_path / "root").rglob("*.tmp-*"))
    committed = [int(p.stem) for p in cache.run_paths(plan.document.run_id).shards("g0001").glob("*.json")]
    assert sorted(committed) == list(range(shard.shard_idx)), "shards before it are kept"
    last = shard.first_sample + shard.n_samples
    assert all(n <= 2 for n in data.reads[last:]), "no picture of a later shard was decoded"


def test_one_batch_waits_beside_the_one_in_use() -> None:
    assert AHEAD == 1
