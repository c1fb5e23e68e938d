"""Answers are the same however they were got, the choice is the cheapest, and a sweep goes on in the way it was begun."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from steercache.answers import costs
from steercache.answers import store as run_store
from steercache.answers.mode import keep_numerics
from steercache.answers.ties import tie_nats_here
from steercache.cache.calibration import record_costs
from steercache.cells.options import EvalOptions
from steercache.core.errors import SteercacheWarning, UsageError
from steercache.data.benchmarks import Benchmark, open_benchmark
from steercache.data.benchmarks.drawn import SEED
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session, open_session
from steercache.runs.engine import BuildOptions, build_run
from steercache.runs.job import prepare_trace
from steercache.runs.plan import plan_run
from steercache.steering.costs import ForwardCosts, key_of
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.result import SweepResult
from steercache.trace.numerics import numerics_of
from tests.sweeps.small_run import options
from tests.world import World

N_ROWS = 30


def bench() -> Benchmark:
    return open_benchmark("scenes", task="Count", form="number", limit=N_ROWS)


def first_token(**changes: Any) -> EvalOptions:
    """Nine cells of one vector over a few questions, answered with one token."""
    known: dict[str, Any] = {
        "layers": (1, 3),
        "alphas": (3.0, 9.0),
        "targets": ("image", "text"),
        "n": 6,
        "controls": 0,
        "prompting": "",
        "max_new_tokens": 1,
        "split": "search",
        "damage": False,
        "mode": "auto",
    }
    return options(**(known | changes))


@pytest.fixture(scope="module")
def replayable(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache with a run of tiny over the questions as `eval` asks them."""
    folder = tmp_path_factory.mktemp("replayable")
    root = folder / "root"
    shutil.copytree(world.session.cache.root, root, ignore=shutil.ignore_patterns("sweeps", "ledger*"))
    source = {"type": "scenes", "seed": SEED, "tasks": ["Count"], "n": N_ROWS, "form": "number", "prefix": "answer en "}
    model = {"type": "path", "folder": str((root / "models" / "zoo-tiny").resolve())}
    trace = {
        "kind": "trace",
        "version": 1,
        "name": "questions",
        "model": {"kind": "model", "version": 1, "name": "tiny", "source": model, "backbone": "tiny-backbone"},
        "datasets": [{"kind": "dataset", "version": 1, "name": "counts", "source": source}],
        "layers": {"start": 1, "stop": 4},
        "numerics": {"tokens_per_batch": 500, "threads": 1},
    }
    backbone = trace["model"] | {"name": "tiny-backbone", "backbone": None}  # type: ignore[operator]
    (folder / "tiny-backbone.yaml").write_text(yaml.safe_dump({k: v for k, v in backbone.items() if v is not None}))
    (folder / "trace.yaml").write_text(yaml.safe_dump(trace))
    prepared = prepare_trace(folder / "trace.yaml", cache_root=root, device="cpu", dtype="float32")
    cache = open_session(root).cache
    build_run(cache, plan_run(prepared.job, cache=cache), prepared, BuildOptions())
    return root


@pytest.fixture
def own(replayable: Path, tmp_path: Path) -> Any:
    """Copies of that cache, one for each way."""

    def make(name: str) -> Session:
        shutil.copytree(replayable, tmp_path / name)
        return open_session(tmp_path / name)

    return make


def run(session: Session, world: World, asked: EvalOptions) -> SweepResult:
    return evaluate(session, world.loaded, bench(), vectors=[session.vector("counting")], options=asked)


def answers_of(session: Session, found: SweepResult) -> Mapping[tuple[str, str], tuple[str, float | None]]:
    rows = session.sql(
        "select cell_id, sample_id, raw, margin from answers where sweep_id = $s", s=found.sweep_id
    ).fetchall()
    return {(cell, sample): (raw, margin) for cell, sample, raw, margin in rows}


def plant(session: Session, world: World, **costs: float) -> None:
    """Costs as if they had been measured here before."""
    known = dict.fromkeys(ForwardCosts.__dataclass_fields__, 0.0) | {"block_token_s": 1e-6}
    record_costs(session.cache.paths, key_of(world.loaded), known | costs)
    record_costs(session.cache.paths, "disk", {"read_s_per_byte": costs.get("read", 0.0)})


def test_answers_are_the_same_however_they_were_got(own: Any, world: World) -> None:
    sessions = {mode: own(mode) for mode in ("full", "branch", "replay")}
    found, answers = {}, {}
    for mode, session in sessions.items():
        found[mode] = run(session, world, first_token(mode=mode))
        answers[mode] = answers_of(session, found[mode])
        choice = found[mode].modes["search"]
        assert (choice.mode, choice.forced, choice.n_to_compute, choice.n_cached) == (mode, True, 9 * 6, 0)
        assert set(choice.seconds) == {"full", "branch", "replay"}
        assert not found[mode].computed_in_full
        said = session.sql(
            "select distinct c.answer_mode, c.exact, a.mode from cells c join answers a using (sweep_id, cell_id)"
        )
        assert said.fetchall() == [(mode, True, mode)]
    assert len(answers["full"]) == 54
    assert answers["full"].keys() == answers["branch"].keys() == answers["replay"].keys()
    ties = {key for one in found.values() for key in one.near_ties}
    for key, (raw, margin) in answers["full"].items():
        for mode in ("branch", "replay"):
            other_raw, other_margin = answers[mode][key]
            assert other_raw == raw or key in ties
            assert other_margin == pytest.approx(margin, abs=1e-4)
    assert len({raw for raw, _ in answers["full"].values()}) > 1


def test_a_replay_runs_no_tower_and_a_full_forward_one_for_every_cell(own: Any, world: World) -> None:
    n_seen = {}
    for mode in ("full", "branch", "replay"):
        session = own(mode)
        plant(session, world)
        tie_nats_here(session.cache, world.loaded)  # measured by forward passes of its own, once
        seen: list[int] = []
        handle = world.loaded.model.model.vision_tower.register_forward_hook(lambda *args, s=seen: s.append(1))
        run(session, world, first_token(mode=mode))
        handle.remove()
        n_seen[mode] = len(seen)
    assert n_seen["replay"] == 0
    assert n_seen["full"] == 9 * n_seen["branch"] > 0


def test_costs_are_measured_once_and_kept(own: Any, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    session = own("root")
    session.cache.paths.calibration.unlink()
    measured: list[int] = []
    real, found = costs.measure_costs, dict[str, ForwardCosts]()

    def measure(loaded: LoadedModel, samples: Any) -> ForwardCosts:
        measured.append(1)
        if not found:  # what is found is not looked at, and takes more than a second each time
            found["first"] = real(loaded, samples)
        return found["first"]

    monkeypatch.setattr(costs, "measure_costs", measure)
    for recalibrate, n_measured in ((False, 1), (False, 1), (True, 2)):
        run(session, world, first_token(n=2, recalibrate=recalibrate))
        assert len(measured) == n_measured
    session.cache.paths.calibration.write_text('{"forward/')
    run(session, world, first_token(n=2))
    assert len(measured) == 3
    assert key_of(world.loaded) in json.loads(session.cache.paths.calibration.read_text())
    run(session, world, first_token(n=2, mode=None))
    assert len(measured) == 3


def test_the_quickest_way_is_chosen_and_said(own: Any, world: World) -> None:
    session = own("root")
    plant(session, world, picture_s=1.0)
    found = run(session, world, first_token(n=2))
    assert found.modes["search"].mode == "replay"
    assert "recomputing in full about 18 s" in found.modes["search"].reason  # 9 cells over 2 pictures
    plant(session, world, read=1.0)
    found = run(session, world, first_token(n=3))
    assert found.modes["search"].mode == "branch"
    assert "18 answers" not in found.modes["search"].reason
    assert "9 answers, 18 are in the cache" in found.modes["search"].reason
    found = run(session, world, first_token(n=3))
    assert found.modes["search"].mode == "read"
    assert found.n_computed == 0


def test_a_recompute_is_chosen_where_a_pass_to_branch_from_is_one_too_many(own: Any, world: World) -> None:
    session = own("root")
    plant(session, world, picture_s=1e-3, read=1.0)
    run(session, world, first_token(layers=(1,), alphas=(3.0,), targets=("text",)))
    found = run(session, world, first_token(layers=(1,), alphas=(5.0,), targets=("text",)))  # the baseline is known
    choice = found.modes["search"]
    assert choice.mode == "full"
    assert choice.reason.startswith("recomputing in full: about")
    assert "for 6 answers, 6 are in the cache" in choice.reason
    assert choice.seconds["full"] < choice.seconds["branch"]
    assert not found.computed_in_full  # that is for what could not branch
    other = own("other")
    branched = run(other, world, first_token(layers=(1,), alphas=(5.0,), targets=("text",), mode="branch"))
    assert branched.rows[0].comparison.after == found.rows[0].comparison.after


def test_what_was_begun_in_one_way_goes_on_in_it(own: Any, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_store, "EVERY_S", 0.0)
    session, asked = own("root"), first_token(tokens_per_batch=150)
    plant(session, world, picture_s=1.0)

    def kill(label: str, done: int, total: int | None) -> None:
        if label == "answers" and done >= 10:
            raise KeyboardInterrupt

    vectors = [session.vector("counting")]
    with pytest.raises(KeyboardInterrupt):
        evaluate(session, world.loaded, bench(), vectors=vectors, options=asked, progress=kill)
    plant(session, world, read=1.0)
    found = run(session, world, asked)
    choice = found.modes["search"]
    assert (choice.mode, choice.forced) == ("replay", False)
    assert "as this sweep was begun" in choice.reason
    assert 0 < choice.n_cached < 54


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"max_new_tokens": 2}, "may have 2 tokens"),
        ({"layers": (1, 5)}, "lacks layer 5"),
        ({"n": 12}, r"has \d+ of these \d+ questions"),
    ],
)
def test_a_replay_that_cannot_be_says_why(changes: dict[str, Any], why: str, own: Any, world: World) -> None:
    session = own("root")
    plant(session, world)
    many = open_benchmark("scenes", task="Count", form="number", limit=3 * N_ROWS)
    vectors = [session.vector("counting")]
    with pytest.raises(UsageError, match=why):
        evaluate(
            session, world.loaded, many, vectors=vectors, options=first_token(**({"n": 3} | changes), mode="replay")
        )
    found = evaluate(session, world.loaded, many, vectors=vectors, options=first_token(**({"n": 3} | changes)))
    assert re.search(why, found.modes["search"].barred["replay"])
    assert f"no replaying: {found.modes['search'].barred['replay']}" in found.modes["search"].reason


def test_rows_computed_under_other_numerics_are_not_replayed(own: Any, world: World) -> None:
    session = own("root")
    plant(session, world, picture_s=1.0, read=1e-9)
    cache = session.cache
    path = cache.run_paths(cache.resolve_run("questions")).document
    document = json.loads(path.read_bytes())
    kernels = document["numerics"]["probe"]["float32"]
    document["numerics"]["probe"]["float32"] = {**kernels, "eager attention": "0" * 16}
    path.write_text(json.dumps(document))
    found = run(session, world, first_token(n=2))
    assert found.modes["search"].mode != "replay"
    assert "this machine computes other bits in float32 eager attention" in found.modes["search"].reason


def test_a_sweep_that_goes_on_under_other_numerics_says_so(own: Any, world: World) -> None:
    session = own("root")
    plant(session, world)
    found = run(session, world, first_token(n=2))
    path = session.cache.paths.sweep(found.sweep_id) / "numerics.json"
    begun = json.loads(path.read_bytes())
    assert begun == numerics_of(world.loaded)
    keep_numerics(path.parent, world.loaded)  # no warning: a warning is an error here
    begun["probe"]["float32"]["products"] = "0" * 16
    path.write_text(json.dumps(begun))
    with pytest.warns(SteercacheWarning, match="this machine computes other bits in float32 products"):
        keep_numerics(path.parent, world.loaded)


def test_a_run_of_prompts_in_another_form_is_named_as_such(own: Any, world: World) -> None:
    session = own("root")
    plant(session, world)
    by_letter = open_benchmark("scenes", task="Count", form="letter", limit=N_ROWS)
    with pytest.raises(UsageError, match=r"has none of these questions: .* prompts of another form"):
        evaluate(
            session,
            world.loaded,
            by_letter,
            vectors=[session.vector("counting")],
            options=first_token(n=3, mode="replay"),
        )


def test_a_model_whose_blocks_cannot_be_run_alone_is_recomputed(own: Any, world: World) -> None:
    session = own("root")
    plant(session, world)
    handle = world.loaded.model.register_forward_hook(lambda m, a, out: out.__setitem__("logits", out.logits * 2))
    try:
        found = run(session, world, first_token(n=2))
        with pytest.raises(UsageError, match="more between its last block and its logits"):
            run(session, world, first_token(n=3, mode="branch"))
    finally:
        handle.remove()
    choice = found.modes["search"]
    assert choice.mode == "full"
    assert "no branching: this model does more between" in choice.reason
