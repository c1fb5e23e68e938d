"""A grid killed at random moments and taken up again equals an undisturbed one, byte for byte."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from steercache.answers import store as run_store
from steercache.cache.lock import hold_lock
from steercache.cells.sweep import prepare_sweep
from steercache.core.errors import BusyError
from steercache.manifests.resolve import ResolvedSweep
from steercache.manifests.sweep import Race
from steercache.queries.session import Session, open_session
from steercache.sweeps.grid import GridOptions, GridResult, run_grid
from steercache.sweeps.ledger import read_entries
from tests.cache.test_crash import duration_of, run_and_kill
from tests.sweeps.small_sweep import stored_answers_of, write_sweep
from tests.world import World

IN_NORMS = {"alpha_unit": "target_norm", "alphas": [0.5, 2]}
# In a default run `test_an_interrupt_costs_nothing_that_was_answered` stands for them.
KILLS = [pytest.param(12, id="many", marks=pytest.mark.slow)]


@pytest.fixture
def roots(own_session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fresh copies of the cache, for one attempt each; answers are written group by group."""
    monkeypatch.setattr(run_store, "EVERY_S", 0.0)
    monkeypatch.setattr(run_store, "SHARE", 0)

    def make(name: str) -> Path:
        shutil.copytree(own_session.cache.root, tmp_path / name)
        return tmp_path / name

    return make


def run_at(root: Path, world: World, sweep: ResolvedSweep, options: GridOptions) -> GridResult:
    return run_grid(prepare_sweep(open_session(root), world.loaded, sweep), options)


def answers_on_disk(root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What the files say, by cell and sample; sweeps that never said what they are have none."""
    rows = open_session(root).sql("select * from answers").to_arrow_table().to_pylist()
    return {(row["cell_id"], row["sample_id"]): row for row in rows}


def files_of_sweep(root: Path, sweep_id: str) -> dict[str, bytes]:
    """Every file of a sweep, byte for byte, but for the time at which it was saved and what a killed writer left unfinished."""
    folder = root / "sweeps" / sweep_id
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "lock" and ".tmp-" not in p.name
    }
    saved = json.loads(found["manifest.json"])["created_at"]
    found["manifest.json"] = found["manifest.json"].replace(saved.encode(), b"")
    return found


def norms_on_disk(root: Path) -> dict[str, bytes]:
    """Norms of the steered rows, which cells in the unit "target_norm" are made of; they come before any answer."""
    return {path.name: path.read_bytes() for path in (root / "row_norms").glob("*.json")}


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (GridOptions(), {}),
        pytest.param(GridOptions(race=Race(tolerance=0.2)), {}, marks=pytest.mark.slow),
        pytest.param(GridOptions(), IN_NORMS, marks=pytest.mark.slow),
    ],
    ids=["exact", "raced", "in-norms"],
)
@pytest.mark.parametrize("n_kills", KILLS)
def test_a_grid_killed_at_random_moments_and_resumed_equals_an_undisturbed_one(
    n_kills: int, options: GridOptions, changes: dict[str, Any], roots: Any, world: World, tmp_path: Path
) -> None:
    sweep = write_sweep(tmp_path / "sweep", memory_mib=40, tokens_per_batch=600, **changes)
    undisturbed, timed = roots("undisturbed"), roots("timed")
    whole = duration_of(lambda: run_at(timed, world, sweep, options))
    wanted = run_at(undisturbed, world, sweep, options).tasks[0]
    moments = random.Random(f"{n_kills} {options}")
    norms = norms_on_disk(undisturbed)
    assert len(norms) == (1 if changes else 0)  # one task
    first = (0.0, 0.2) if changes else (0.2, 0.9)  # before there are norms, too
    n_killed = n_with_answers = n_without_norms = round_no = 0
    while n_killed < n_kills or not (n_with_answers and n_without_norms):
        root = roots(f"root{round_no}")
        round_no += 1
        before: dict[tuple[str, str], dict[str, Any]] = {}
        share, n_before = moments.uniform(*first), n_killed
        while run_and_kill(lambda root=root: run_at(root, world, sweep, options), share * whole):
            n_killed += 1
            assert norms_on_disk(root) in ({}, norms)
            n_without_norms += not norms_on_disk(root)
            kept = answers_on_disk(root)
            assert {key: kept[key] for key in before} == before, "what was written is never lost or changed"
            n_with_answers += len(kept) > len(before)
            if share > 0.2 and len(kept) == len(before):
                whole *= 1.2  # other work has slowed the machine down
            before, share = kept, moments.uniform(0.2, 0.9)
            if n_killed >= n_kills and n_with_answers and n_without_norms:
                break
        if n_killed == n_before:
            whole *= 0.8  # or has left it, and it is done before it is killed
        found = run_at(root, world, sweep, options).tasks[0]
        assert found.n_reused >= sum(row["status"] == "ok" for row in before.values())
        assert found.n_reused + found.n_computed == wanted.n_computed
        assert norms_on_disk(root) == norms
        assert found.cells == wanted.cells
        assert repr(found.rows) == repr(wanted.rows)
        assert files_of_sweep(root, found.sweep_id) == files_of_sweep(undisturbed, wanted.sweep_id)
        assert [n for n in files_of_sweep(root, found.sweep_id) if "answers" in n] == ["answers/00000.parquet"]
        answers = stored_answers_of(open_session(root), found.sweep_id)
        assert answers == stored_answers_of(open_session(undisturbed), found.sweep_id)
        assert [look.subject for look in read_entries(root)] == [found.sweep_id]


def test_an_interrupt_costs_nothing_that_was_answered(own_session: Session, world: World, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", tokens_per_batch=600)
    done: list[int] = []

    def interrupt(label: str, n_done: int, total: int | None) -> None:
        if label.endswith("answers"):
            done.append(n_done)
            if n_done > 100:
                raise KeyboardInterrupt

    job = prepare_sweep(own_session, world.loaded, sweep, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_grid(job, progress=interrupt)
    kept = answers_on_disk(own_session.cache.root)
    assert len(kept) == done[-1] > 100
    assert own_session.sql("select status from sweeps").fetchall() == [("running",)]
    assert run_grid(job).tasks[0].n_reused == len(kept)


def test_a_sweep_killed_before_it_said_what_it_is_disturbs_no_question(own_session: Session) -> None:
    assert own_session.sql("select count(*) from sweeps").fetchall() == [(0,)]
    (own_session.cache.paths.sweeps / ("ab" * 32) / "answers").mkdir(parents=True)
    assert own_session.sql("select count(*) from sweeps").fetchall() == [(0,)]


def test_a_second_process_on_the_same_sweep_is_refused(own_session: Session, world: World, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", splits=["search"])
    found = run_at(own_session.cache.root, world, sweep, GridOptions())
    lock = own_session.cache.paths.sweep(found.tasks[0].sweep_id) / "lock"
    with hold_lock(lock, what="the sweep"), pytest.raises(BusyError, match="small: scenes Count is held by process"):
        run_at(own_session.cache.root, world, sweep, GridOptions())
    assert run_at(own_session.cache.root, world, sweep, GridOptions()).tasks[0].n_computed == 0
