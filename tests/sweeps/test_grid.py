"""A grid against recomputations from its stored answers, against `eval`, and against a plain loop over pictures."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from steercache import zoo
from steercache.answers import store as run_store
from steercache.benchmarks.task import pick_rows
from steercache.cells.arms import ArmCell
from steercache.cells.model import find_model
from steercache.cells.sweep import SweepJob, TaskQuestions
from steercache.core.errors import BudgetError, UsageError
from steercache.data import scenes
from steercache.data.benchmarks import open_benchmark
from steercache.manifests.sweep import Race
from steercache.queries.session import Session
from steercache.screening.job import tasks_of_sweep
from steercache.screening.pilot import ScreenedCells, ScreenFirst
from steercache.sweeps import race as grid_race
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.find import read_sweep
from steercache.sweeps.grid import GridOptions, run_grid
from steercache.sweeps.ledger import read_entries
from tests.data.benchmarks.layouts import CV_BENCH, write_table
from tests.sweeps.small_run import options, vector
from tests.sweeps.small_sweep import COUNT, small_grid, small_job, stored_answers_of
from tests.world import World


def test_the_table_follows_from_the_stored_answers_alone(own_session: Session, world: World, tmp_path: Path) -> None:
    found = small_grid(own_session, world.loaded, tmp_path, vectors=["counting", "entity"])
    (task,) = found.tasks
    answers = stored_answers_of(own_session, task.sweep_id)
    search = sorted({s for (_, s), row in answers.items() if row["split"] == "search"})
    query = "select cell_id, vector_id, layer, alpha, target from cells where sweep_id = $s"
    cells = {row[0]: row[1:] for row in own_session.sql(query, s=task.sweep_id).fetchall()}
    (baseline,) = [c for c, (v, *_) in cells.items() if v is None]
    right = {c: np.array([bool(answers[c, s]["correct"]) for s in search]) for c in cells}
    assert len(search) == 14
    assert len(task.cells) == 24
    assert task.baseline["search"] == right[baseline].mean()
    for row in task.cells:
        now, was = right[row.cell.cell_id], right[baseline]
        assert (row.n_seen, row.n_failed, row.right) == (14, 0, now.mean())
        assert row.gain is not None
        assert row.gain.estimate == pytest.approx(now.mean() - was.mean())
        assert row.gain.low <= row.gain.estimate <= row.gain.high
    order = [(-row.right, row.cell.alpha) for row in task.cells]
    assert order == sorted(order)
    assert {r.cell.cell_id: r.p_family for r in task.cells} == pytest.approx(family_by_hand(right, baseline), abs=0.02)
    for choice in task.choices:
        own = [c for c, (v, *_) in cells.items() if v == choice.vector_id]
        preferred = sorted(own, key=lambda c: (-right[c].sum(), cells[c][2], cells[c][3] != "image", cells[c][1]))
        assert choice.cell.cell_id == preferred[0]
        assert choice.n_cells == 12
        assert choice.bias is not None
        test = task.table.row("test", choice.name)
        assert test is not None
        assert test.bias is not None
        tested = {s: row for (c, s), row in answers.items() if row["split"] == "test" and c == choice.cell.cell_id}
        assert test.comparison.after == sum(bool(row["correct"]) for row in tested.values()) / 14
        assert test.bias.test is not None
        assert test.bias.test.estimate == pytest.approx(test.comparison.gain.estimate)
    asked_on_test = {c for (c, _), row in answers.items() if row["split"] == "test"}
    assert asked_on_test == {baseline, *(choice.cell.cell_id for choice in task.choices)}


def test_a_task_that_names_its_vectors_is_the_sweep_of_these_alone(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    small: dict[str, Any] = {"layers": [1], "alphas": [3], "targets": ["image"], "n": 4}
    relation = {"benchmark": "scenes", "task": "Relation"}
    tasks = [{**COUNT, "concepts": ["counting"]}, {**relation, "vectors": ["entity"]}]
    job = small_job(own_session, world.loaded, tmp_path, vectors=["counting", "entity"], tasks=tasks, **small)
    assert [task.grid.names for task in tasks_of_sweep(job)] == [("counting",), ("entity",)]
    both = run_grid(job)
    assert [[row.name for row in task.choices] for task in both.tasks] == [["counting"], ["entity"]]
    for task, name, alone in zip(both.tasks, ("counting", "entity"), (COUNT, relation), strict=True):
        (again,) = small_grid(own_session, world.loaded, tmp_path, vectors=[name], tasks=[alone], **small).tasks
        assert (again.sweep_id, again.n_computed) == (task.sweep_id, 0)
    with pytest.raises(UsageError, match="no vector of the sweep is of the concept colour"):
        small_job(own_session, world.loaded, tmp_path, tasks=[{**COUNT, "concepts": ["colour"]}])


def family_by_hand(right: dict[str, np.ndarray[Any, Any]], baseline: str) -> dict[str, float]:
    """Max-T over flips of every picture (each question has its own here), with a sign matrix of its own."""
    deltas = {c: r.astype(float) - right[baseline] for c, r in right.items() if c != baseline}
    signs = np.random.default_rng(99).choice([-1.0, 1.0], size=(20_000, 14))
    scaled = {c: d / max(np.sqrt((d**2).sum()), 1e-12) for c, d in deltas.items()}
    best = np.max([signs @ d for d in scaled.values()], axis=0)
    return {c: float((best >= d.sum() - 1e-9).mean()) for c, d in scaled.items()}


def test_its_answers_are_those_of_eval(own_session: Session, world: World, tmp_path: Path) -> None:
    (task,) = small_grid(own_session, world.loaded, tmp_path / "grid", splits=["search"]).tasks
    grid = stored_answers_of(own_session, task.sweep_id)
    for path in own_session.cache.paths.sweeps.iterdir():
        path.rename(tmp_path / path.name)  # so that nothing is read from the cache
    own_session.cache.paths.index.unlink()
    found = evaluate(
        own_session,
        world.loaded,
        open_benchmark("scenes", task="Count", form="number"),
        vectors=[own_session.vector("counting")],
        options=options(
            layers=(3,), alphas=(9.0,), targets=("image", "text"), split="search", controls=0, prompting=""
        ),
    )
    alone = stored_answers_of(own_session, found.sweep_id)
    assert found.n_reused == 0
    assert len(alone) == 3 * 14
    assert alone.keys() < grid.keys()
    for key, row in alone.items():
        assert grid[key]["margin"] == pytest.approx(row["margin"], abs=1e-4)
        assert grid[key]["raw"] == row["raw"] or key in {*task.near_ties, *found.near_ties}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside transformers' processor
def test_its_answers_are_those_of_a_plain_loop_with_a_hook(own_session: Session, world: World, tmp_path: Path) -> None:
    job = small_job(own_session, world.loaded, tmp_path, n=5, splits=["search"])
    (task,) = small_grid(own_session, world.loaded, tmp_path, n=5, splits=["search"]).tasks
    answers = stored_answers_of(own_session, task.sweep_id)
    examples = pick_rows(job.tasks[0].benchmark, "search", n=5, orphans="test")
    vec = own_session.vector("counting")
    n_seen = 0
    for setting in [s for s in job.grid.cells if s.cell.layer in (1, 4) and s.cell.alpha == 9]:
        cell = setting.cell
        for example, one in zip(examples, job.tasks[0].asked["search"], strict=True):
            delta = vec.at(int(cell.layer or 0)) * np.float32(cell.alpha)
            words = by_hand(world.loaded, example, delta, layer=cell.layer, target=cell.target)
            key = (cell.cell_id, one.sample_id)
            assert answers[key]["raw"] == words or key in task.near_ties
            n_seen += 1
    assert n_seen == 20
    assert len(task.near_ties) <= 2


def by_hand(loaded: Any, example: Any, delta: np.ndarray[Any, Any], *, layer: int | None, target: str) -> str:
    """One picture through processor, hook and `generate`."""
    text = f"<image>answer en Answer with the number only.\n{example.labels.meta['prompt']}"
    image = Image.open(io.BytesIO(example.images[0].load())).convert("RGB")
    inputs = loaded.processor(images=[[image]], text=[text], return_tensors="pt")
    inputs.pop("labels", None)
    ids = inputs["input_ids"][0]
    mask = ids == loaded.config.image_token_id
    if target == "text":
        mask = ~mask & ~torch.isin(ids, torch.tensor(loaded.tokenizer.all_special_ids))
        mask[-1] = False

    def hook(module: Any, args: Any, out: Any) -> Any:
        if out.shape[1] != len(ids):
            return None  # a generated token
        moved = out.clone()
        moved[0, mask] += torch.from_numpy(delta)
        return moved

    handle = loaded.model.model.language_model.layers[layer].register_forward_hook(hook)
    out = loaded.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    handle.remove()
    return str(loaded.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)).strip()


def test_of_equal_cells_the_smallest_strength_is_chosen_then_the_first_target_and_the_lowest_layer(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    own_session.save(vector(np.zeros((6, 96), np.float32), name="nothing"))
    changes = {"vectors": ["nothing"], "alphas": [8, 2, -1, 4], "layers": [4, 1], "allow_foreign": True}
    for rules in (None, Race()):
        (task,) = small_grid(own_session, world.loaded, tmp_path, options=GridOptions(race=rules), **changes).tasks
        (choice,) = task.choices
        assert len({row.right for row in task.cells if row.n_seen == 14}) == 1
        assert (choice.cell.alpha, choice.cell.target, choice.cell.layer) == (-1, "image", 1)
        test = task.table.row("test", choice.name)
        assert (choice.lineage, test.comparison.gain.estimate if test else None) == ("unknown", 0)


def test_cells_of_another_sweep_are_not_computed_again(own_session: Session, world: World, tmp_path: Path) -> None:
    (first,) = small_grid(own_session, world.loaded, tmp_path / "a", splits=["search"], n=6).tasks
    assert (first.n_computed, first.n_reused) == (13 * 6, 0)
    (second,) = small_grid(
        own_session, world.loaded, tmp_path / "b", name="other", layers=[3, 5], alphas=[9, 5], splits=["search"], n=6
    ).tasks
    assert (second.n_reused, second.n_computed) == (3 * 6, 6 * 6)  # the baseline, and layer 3 at 9 on two targets
    mine, theirs = (stored_answers_of(own_session, task.sweep_id) for task in (first, second))
    shared = mine.keys() & theirs.keys()
    assert len(shared) == 3 * 6
    same = ("raw", "parsed", "correct", "margin", "split", "status")
    assert all([mine[key][c] for c in same] == [theirs[key][c] for c in same] for key in shared)
    again = small_grid(own_session, world.loaded, tmp_path / "b", name="other", layers=[3, 5], alphas=[9, 5], n=6)
    assert again.tasks[0].n_computed == 2 * 6  # the test split
    assert again.tasks[0].cells == second.cells


def test_what_was_answered_with_other_weights_or_to_other_prompts_is_not_taken(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"splits": ["search"], "allow_foreign": True, "layers": [3], "n": 6}
    (first,) = small_grid(own_session, world.loaded, tmp_path / "a", **changes).tasks
    folder = zoo.build("tiny", tmp_path / "moved")
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in sorted(weights) if n.endswith("layers.2.mlp.down_proj.weight") and "language" in n)
    weights[name][0, 0] += 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    moved = find_model(str(folder), own_session.cache.root).load(own_session.cache.root, dtype="float32")
    (other,) = small_grid(own_session, moved, tmp_path / "a", **changes).tasks
    assert (other.n_reused, other.n_computed) == (0, first.n_computed)
    assert other.sweep_id != first.sweep_id
    assert not {r.cell.cell_id for r in other.cells} & {r.cell.cell_id for r in first.cells}
    (asked_otherwise,) = small_grid(
        own_session, world.loaded, tmp_path / "a", tasks=[COUNT | {"form": "letter"}], **changes
    ).tasks
    assert (asked_otherwise.n_reused, asked_otherwise.n_computed) == (0, first.n_computed)
    assert asked_otherwise.sweep_id != first.sweep_id
    (same,) = small_grid(own_session, world.loaded, tmp_path / "a", **changes).tasks
    assert (same.sweep_id, same.n_computed, same.n_reused) == (first.sweep_id, 0, first.n_computed)


@pytest.mark.slow
def test_several_tasks_are_several_tables_and_one_look_each(own_session: Session, world: World, tmp_path: Path) -> None:
    tasks = [COUNT, {"benchmark": "scenes", "task": "Relation", "form": "word"}]
    found = small_grid(own_session, world.loaded, tmp_path, tasks=tasks, layers=[3], n=6)
    assert [task.name for task in found.tasks] == ["scenes Count", "scenes Relation"]
    assert [(look.task, look.subject) for look in read_entries(own_session.cache.root)] == [
        ("Count", found.tasks[0].sweep_id),
        ("Relation", found.tasks[1].sweep_id),
    ]
    tested = [row for task in found.tasks for row in task.rows if row.split == "test"]
    p, adjusted = [row.comparison.p_clustered for row in tested], [row.p_holm for row in tested]
    assert len(p) == 2
    for task, row in zip(found.tasks, tested, strict=True):  # and read again, it is the same table
        assert repr(read_sweep(own_session, task.sweep_id).row("test", row.name)) == repr(row)
    assert sorted(adjusted) == pytest.approx(sorted([min(1.0, 2 * min(p)), max(min(1.0, 2 * min(p)), max(p))]))
    small_grid(own_session, world.loaded, tmp_path, tasks=tasks, layers=[3], n=6)
    assert len(read_entries(own_session.cache.root)) == 2  # the same table read twice is one look
    small_grid(own_session, world.loaded, tmp_path, tasks=tasks, layers=[1], n=6, splits=["search"])
    assert len(read_entries(own_session.cache.root)) == 2


@pytest.mark.parametrize("rules", [None, Race(tolerance=0.2)], ids=["exact", "raced"])
def test_progress_counts_every_answer_once_and_ends_at_the_total(
    rules: Race | None, own_session: Session, world: World, tmp_path: Path
) -> None:
    said: list[tuple[str, int, int | None]] = []
    small_grid(
        own_session,
        world.loaded,
        tmp_path,
        options=GridOptions(race=rules),
        progress=lambda *words: said.append(words),
    )
    done = [d for label, d, _ in said if label == "scenes Count: answers"]
    assert done == sorted(done)
    assert said[-1] == ("scenes Count: answers", 14 * 13 + 14 * 2, 14 * 13 + 14 * 2)


def test_a_budget_that_holds_no_cell_is_an_error_that_says_what_to_do(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=r"budget is \d+ MiB") as caught:
        small_grid(own_session, world.loaded, tmp_path, memory_mib=1)
    assert "fewer tokens per batch" in str(caught.value.hint)


def test_a_small_budget_gives_the_same_answers_in_more_parts(
    own_session: Session, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "EVERY_S", 0.0)
    monkeypatch.setattr(run_store, "SHARE", 0)
    n_parts: Counter[int] = Counter()
    monkeypatch.setattr(run_store, "add_answers", lambda *args: n_parts.update([memory]))
    tables = {}
    for memory in (2048, 24):
        (task,) = small_grid(own_session, world.loaded, tmp_path, memory_mib=memory, splits=["search"]).tasks
        answers = stored_answers_of(own_session, task.sweep_id)
        tables[memory] = {key: row["raw"] for key, row in answers.items() if key not in task.near_ties}
        for path in own_session.cache.paths.sweeps.iterdir():
            path.rename(tmp_path / f"{memory}")
        own_session.cache.paths.index.unlink()
    assert n_parts[24] > n_parts[2048]
    both = tables[24].keys() & tables[2048].keys()
    assert len(both) > 13 * 14 - 5
    assert all(tables[24][key] == tables[2048][key] for key in both)


def broken_set(folder: Path) -> Path:
    """16 counting questions: one torn picture, one that is none, one asked twice."""
    rows = [scenes.to_row(scenes.make_example(5, 2 * i, tasks=["Count"])) for i in range(16)]
    whole = rows[3]["image"]["bytes"]
    rows[3]["image"] = {"bytes": whole[: len(whole) // 2], "path": "torn.png"}
    rows[7]["image"] = {"bytes": b"not a picture", "path": "text.png"}
    rows[9] = rows[8]
    write_table(folder / "test_2d.parquet", [{n: row.get(n) for n in CV_BENCH.names} for row in rows], CV_BENCH)
    return folder


@pytest.mark.parametrize(
    "rules", [None, pytest.param(Race(tolerance=0.1), marks=pytest.mark.slow)], ids=["exact", "raced"]
)
def test_broken_samples_are_counted(rules: Race | None, own_session: Session, world: World, tmp_path: Path) -> None:
    broken_set(tmp_path / "set")
    wanted = {"benchmark": "scenes", "form": "number", "folder": "set"}
    (task,) = small_grid(
        own_session, world.loaded, tmp_path, tasks=[wanted], n=None, layers=[3], options=GridOptions(race=rules)
    ).tasks
    assert sum(task.n_samples.values()) == 16
    assert {f.place.rpartition(":")[2] for f in task.failures} == {"4", "8", "10"}
    n_failed = Counter(f.split for f in task.failures)
    for row in task.cells:
        assert row.n_failed <= n_failed["search"]
        if row.n_seen == task.n_samples["search"]:
            assert row.n_failed == n_failed["search"]
            assert row.gain is not None
            assert row.gain.n == row.n_seen - row.n_failed
    (choice,) = task.choices
    test = task.table.row("test", choice.name)
    assert test is not None
    assert test.comparison.n_failed == n_failed["test"]
    assert own_session.sql("select status from sweeps").fetchall() == [("partly_failed",)]


@pytest.mark.slow
def test_a_race_keeps_its_promise_on_the_tiny_model_and_says_what_each_cell_saw(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    job = small_job(own_session, world.loaded, tmp_path, n=40, splits=["search"], layers=[1, 3], alphas=[3, 9, 27])
    (whole,) = run_grid(job).tasks
    full = {row.cell.cell_id: row.right for row in whole.cells}
    best, broken, works = max(full.values()), 0, []
    for seed in range(7):
        seeded = replace(job, sweep=job.sweep.model_copy(update={"seed": seed}))
        (task,) = run_grid(seeded, GridOptions(race=Race(tolerance=0.05, error=0.05))).tasks
        (choice,) = task.choices
        broken += full[choice.cell.cell_id] < best - 0.05 - 1e-9
        summary = choice.race
        assert summary is not None
        works.append(summary["work"])
        assert task.n_computed == 0  # every answer was in the cache
        assert sum(row.n_seen for row in task.cells) == round(summary["work"] * 12 * 40)
        assert sum(row.dropped for row in task.cells) == summary["n_dropped"]
        assert all(row.n_seen == 40 for row in task.cells if not row.dropped) or not summary["exact"]
        assert {row.p_family for row in task.cells} == {None} or summary["work"] == 1
        assert choice.bias is None
        assert task.baseline == whole.baseline
        answers = stored_answers_of(own_session, task.sweep_id)
        n_seen = Counter(cell for cell, _ in answers)
        assert {row.cell.cell_id: row.n_seen for row in task.cells} == {
            cell: n for cell, n in n_seen.items() if cell in full
        }
    assert broken <= 1
    assert min(works) < 1


@pytest.mark.parametrize("rules", [None, Race(tolerance=0.2)], ids=["exact", "raced"])
def test_a_screening_decides_which_cells_are_run_and_where_a_race_begins(
    rules: Race | None, own_session: Session, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up screening that wants three cells of each vector, the strongest first."""
    firsts = []
    whole_race = grid_race.race

    def race(*args: Any, **asked: Any) -> Any:
        firsts.append(asked["first"])
        return whole_race(*args, **asked)

    monkeypatch.setattr(grid_race, "race", race)
    wanted: dict[str, Sequence[ArmCell]] = {}

    def screening(job: SweepJob, task: TaskQuestions, first: ScreenFirst) -> ScreenedCells:
        wanted.update({arm: some[::-1][: 2 * first.k : 2] for arm, some in job.grid.settings.items()})
        return ScreenedCells(settings=wanted)

    job = small_job(own_session, world.loaded, tmp_path, vectors=["counting", "entity"])
    options = GridOptions(race=rules, screen_first=ScreenFirst(k=3))
    (task,) = run_grid(job, options, screening=screening).tasks
    assert (len(task.cells), task.n_screened_out) == (6, 18)
    assert {r.cell.cell_id for r in task.cells} == {s.cell.cell_id for some in wanted.values() for s in some}
    assert {row.p_family for row in task.cells} == {None}
    for choice in task.choices:
        best = [row for row in task.cells if row.vector == choice.name and not row.dropped]
        assert choice.cell.cell_id in {row.cell.cell_id for row in best}
        assert (choice.n_cells, choice.bias) == (3, None)
    if rules is None:
        rights = {row.cell.cell_id: row.right for row in task.cells}
        for arm, some in job.grid.settings.items():
            (choice,) = [c for c in task.choices if c.name == arm]
            own = [s.cell for s in some if s.cell.cell_id in rights]
            assert choice.cell == min(own, key=lambda cell: (-rights[cell.cell_id], cell.alpha))
    else:
        for first, some in zip(firsts, wanted.values(), strict=True):
            preferred = sorted((s for s in job.grid.cells if s in some), key=lambda s: s.cell.alpha)
            assert preferred[first] == some[0]
    exact = run_grid(job).tasks[0]
    assert exact.sweep_id != task.sweep_id
    assert exact.n_reused > 0


def test_cells_are_not_run_unscreened_where_a_screening_was_asked_for(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="nothing to screen them with"):
        small_grid(own_session, world.loaded, tmp_path, options=GridOptions(screen_first=ScreenFirst(k=3)))
