"""Several vectors as one cell of a sweep: ids, answers, tables, controls, predictions, and what is refused."""

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.answers import store as run_store
from steercache.answers.costs import costs_here
from steercache.answers.target_tokens import selected_in_cell
from steercache.cells.combinations import Steering
from steercache.core.errors import ManifestError, NotFoundError, UsageError
from steercache.core.trials import Cell, CellPart, combined_cell
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import Session, open_session
from steercache.screening.gradient_source import GradientSource
from steercache.screening.job import screen_task, tasks_of_sweep
from steercache.screening.predict import wish_of
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.find import read_sweep
from steercache.sweeps.grid import GridOptions
from steercache.sweeps.plan import plan_sweep
from steercache.trace.batches import pad_batch
from steercache.trace.capture import model_inputs
from tests.screening.small_gradients import questions
from tests.sweeps.small_run import options as eval_options
from tests.sweeps.small_sweep import small_grid, small_job, stored_answers_of
from tests.world import World

LIKE = Cell(
    vector_id=None, layer=None, alpha=0.0, target="all", model_fingerprint="f" * 64, prompt_id="p", decoding={"a": 1}
)
A = CellPart(vector_id="a" * 64, layer=3, alpha=2.0, target="image")
B = CellPart(vector_id="b" * 64, layer=1, alpha=-1.0, target="text", operation="project_out")
PARTS: list[dict[str, Any]] = [
    {"vector": "entity", "layer": 4, "alpha": 1, "operation": "project_out"},
    {"vector": "counting", "layer": 3, "alpha": 9, "target": "image"},
    {"vector": "attribute", "layer": 3, "alpha": 6},
]
ALONE: dict[str, Any] = {
    "vectors": None,
    "alphas": None,
    "layers": None,
    "targets": ["text"],
    "splits": ["search"],
    "n": 8,
}


def combined(**changes: Any) -> dict[str, Any]:
    return {"combinations": [{"name": "three", "parts": PARTS, **changes}], **ALONE}


def test_the_id_of_a_cell_covers_every_part_in_order_and_a_single_part_is_the_plain_cell() -> None:
    both = combined_cell([A, B], LIKE)
    assert both == combined_cell([B, A], LIKE)  # the lower layer acts first, wherever it is listed
    assert (both.layer, both.target, both.operation, both.parts) == (1, "several", "several", (B, A))
    changed = [
        replace(A, alpha=2.5), replace(A, layer=4), replace(A, target="text"), replace(A, vector_id="c" * 64),
        replace(A, operation="rotate"), replace(A, alpha_unit="kl"), replace(A, unit_norm=2.0),
    ]  # fmt: skip
    ids = {combined_cell([one, B], LIKE).cell_id for one in (A, *changed)}
    low = replace(B, layer=3)
    ids |= {combined_cell(some, LIKE).cell_id for some in ([A, low], [low, A], [A, B, low])}
    assert len(ids) == 1 + len(changed) + 3
    plain = Cell(
        vector_id="a" * 64, layer=3, alpha=2.0, target="image", model_fingerprint="f" * 64, prompt_id="p",
        decoding={"a": 1},
    )  # fmt: skip
    assert combined_cell([A], LIKE) == plain
    assert both.alone(A) == plain
    assert both.setting(["one", "two"]) == "one: layer 1, alpha -1, project_out, text + two: layer 3, alpha 2, image"


def test_a_grid_answers_combinations_as_nested_contexts_do_and_its_table_says_whether_they_interfere(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    found = small_grid(own_session, world.loaded, tmp_path, **combined(interference=True))
    task = found.tasks[0]
    assert task.notes == ()
    assert [row.name for row in task.choices][:2] == ["three", "three: counting@3"]
    assert len(task.choices) == 1 + 3 + 3
    (row,) = (one for one in task.choices if one.name == "three")
    assert row.setting == (
        "counting: layer 3, alpha 9, image + attribute: layer 3, alpha 6, text + entity: layer 4, alpha 1, project_out, text"
    )

    answers = stored_answers_of(own_session, task.sweep_id)
    vectors = {name: own_session.vector(name) for name in ("entity", "counting", "attribute")}
    n_same = 0
    for one in questions(world.loaded.bundle, n=8)[:6]:
        assert one.encoded is not None
        batch = pad_batch([one.encoded], padding_side="left", pad_id=world.loaded.pad_id)
        inputs = {k: v for k, v in model_inputs(world.loaded, batch).items() if k not in ("use_cache", "position_ids")}
        with ExitStack() as stack, torch.inference_mode():
            for part in PARTS:
                known = {"target": "text", "operation": "add"} | {k: v for k, v in part.items() if k != "vector"}
                stack.enter_context(steercache.steer(world.loaded, vectors[part["vector"]], **known))
            out = world.loaded.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        said = world.loaded.tokenizer.decode(out[0, batch.input_ids.shape[1] :], skip_special_tokens=True).strip()
        if (row.cell_id, one.sample_id) not in task.near_ties:
            assert answers[row.cell_id, one.sample_id]["raw"] == said
            n_same += 1
    assert n_same >= 4

    parts = own_session.sql(
        "select part, vector, layer, alpha, operation, target from cell_parts where cell_id = $c order by part",
        c=row.cell_id,
    ).fetchall()
    assert parts == [
        (0, "counting", 3, 9.0, "add", "image"),
        (1, "attribute", 3, 6.0, "add", "text"),
        (2, "entity", 4, 1.0, "project_out", "text"),
    ]
    assert own_session.sql("select count(*) from cell_parts").fetchall() == [(3 + 3 * 2 + 3,)]
    interference_is_what_answers_say(own_session, task.table, row.cell_id)
    again = read_sweep(own_session, task.sweep_id)
    assert repr(again.interference) == repr(task.table.interference)
    assert repr(again.rows) == repr(task.table.rows)
    assert "three: counting@3" in again._repr_html_()


def interference_is_what_answers_say(session: Session, table: Any, cell_id: str) -> None:
    """The table's rows against margins and right answers read with SQL."""
    rows = session.sql(
        "select cell_id, sample_id, margin, correct from answers where sweep_id = $s", s=table.sweep_id
    ).fetchall()
    margins = {(c, s): m for c, s, m, _ in rows}
    right = {(c, s): int(r) for c, s, _, r in rows}
    samples = sorted({s for _, s, _, _ in rows})
    (base,) = {c for c, *_ in session.sql("select cell_id from cells where vector_id is null").fetchall()}

    def moved(known: dict[Any, Any], cell: str) -> np.ndarray[Any, Any]:
        return np.array([known[cell, s] - known[base, s] for s in samples], dtype=np.float64)

    by_members = {one.members: one for one in table.interference}
    singles = ("counting@3", "attribute@3", "entity@4")
    assert [len(one.members) for one in table.interference] == [1, 1, 1, 2, 2, 2, 3]
    whole = by_members[singles]
    alone = [by_members[(name,)].cell_id for name in singles]
    assert whole.cell_id == cell_id
    additive, measured = sum(moved(margins, one) for one in alone), moved(margins, cell_id)
    assert whole.margin == pytest.approx(measured.mean(), abs=1e-6)
    assert whole.additive_margin == pytest.approx(additive.mean(), abs=1e-6)
    assert whole.margin_apart.estimate == pytest.approx((measured - additive).mean(), abs=1e-6)
    assert whole.margin_apart.low < whole.margin_apart.high
    assert whole.gain == pytest.approx(moved(right, cell_id).mean())
    assert whole.additive_gain == pytest.approx(sum(moved(right, one) for one in alone).mean())
    assert whole.cosine == pytest.approx(
        measured @ additive / np.linalg.norm(measured) / np.linalg.norm(additive), abs=1e-6
    )
    for name in singles:
        one = by_members[(name,)]
        assert (one.margin, one.cosine) == (one.additive_margin, pytest.approx(1.0))


def test_a_combination_of_one_is_the_plain_cell_and_its_answers_are_shared(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    grid = {"layers": [3], "alphas": [9], "targets": ["image"], "splits": ["search"], "n": 6}
    plain = small_grid(own_session, world.loaded, tmp_path / "plain", **grid).tasks[0]
    one = {"name": "one", "parts": [PARTS[1]]}
    both = small_grid(own_session, world.loaded, tmp_path / "both", combinations=[one], **grid).tasks[0]
    assert both.n_computed == 0
    assert {row.cell_id for row in both.choices} == {plain.choices[0].cell_id}
    assert len(both.cells) == len(plain.cells) == 1
    of_one = stored_answers_of(own_session, both.sweep_id)
    for key, row in stored_answers_of(own_session, plain.sweep_id).items():
        assert of_one[key] | {"sweep_id": ""} == row | {"sweep_id": ""}
    other = {"name": "off-grid", "parts": [{**PARTS[1], "alpha": 7}]}
    beside = small_grid(
        own_session, world.loaded, tmp_path / "beside", combinations=[other], **(grid | {"alphas": [5, 9]})
    ).tasks[0]
    (grid_row,) = (row for row in beside.choices if row.name != "off-grid")
    assert grid_row.n_cells == 2
    assert sorted(cell.cell.alpha for cell in beside.cells) == [5, 7, 9]
    assert repr(read_sweep(own_session, beside.sweep_id).cells) == repr(beside.cells)


def test_a_killed_grid_of_combinations_goes_on_where_it_was(
    own_session: Session, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "EVERY_S", 0.0)
    monkeypatch.setattr(run_store, "SHARE", 0)
    wanted = combined(interference=True) | {"tokens_per_batch": 600}

    class Killed(BaseException):
        pass

    def stop(label: str, done: int, total: int | None) -> None:
        if "answers" in label and done > 40:
            raise Killed

    with pytest.raises(Killed):
        small_grid(own_session, world.loaded, tmp_path, progress=stop, **wanted)
    kept = own_session.sql("select count(*) from answers").fetchall()[0][0]
    assert kept > 0
    resumed = small_grid(open_session(own_session.cache.root), world.loaded, tmp_path, **wanted).tasks[0]
    assert resumed.n_reused == kept
    answers = stored_answers_of(own_session, resumed.sweep_id)

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(own_session.cache.root, elsewhere, ignore=shutil.ignore_patterns("sweeps", "ledger*", "index*"))
    whole = small_grid(open_session(elsewhere), world.loaded, tmp_path, **wanted).tasks[0]
    assert whole.sweep_id == resumed.sweep_id
    assert answers == stored_answers_of(open_session(elsewhere), whole.sweep_id)
    assert repr(whole.table.interference) == repr(resumed.table.interference)


@pytest.mark.slow
def test_parts_count_in_their_own_units_as_plain_cells_do(own_session: Session, world: World, tmp_path: Path) -> None:
    parts = [
        {"vector": "counting", "layer": 3, "alpha": 0.5, "alpha_unit": "target_norm", "target": "image"},
        {"vector": "entity", "layer": 2, "alpha": 0.002, "alpha_unit": "kl"},
    ]
    wanted = ALONE | {"combinations": [{"name": "units", "parts": parts, "interference": True}]}
    found = small_grid(own_session, world.loaded, tmp_path, **wanted)
    (whole,) = (row for row in found.tasks[0].choices if row.name == "units")
    for part, unit, alpha, layer, target, name in (
        (whole.cell.parts[1], "target_norm", 0.5, 3, "image", "counting"),
        (whole.cell.parts[0], "kl", 0.002, 2, "text", "entity"),
    ):
        plain = small_grid(
            own_session, world.loaded, tmp_path / unit, n=8, vectors=[name], layers=[layer], alphas=[alpha],
            alpha_unit=unit, targets=[target], splits=["search"],
        ).tasks[0]  # fmt: skip
        assert plain.choices[0].cell == whole.cell.alone(part)
        assert part.unit_norm
        assert plain.n_computed == 0


def test_controls_of_a_combination_have_one_control_in_the_place_of_every_vector(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    first, second = own_session.vector("counting"), own_session.vector("attribute")
    parts = [
        Steering(vector=first, layer=3, alpha=9, target="image"),
        Steering(vector=second, layer=2, alpha=1.0, operation="project_out", target="text"),
        Steering(vector=first, layer=4, alpha=3.0, target="text"),
    ]
    benchmark = open_benchmark("scenes", task="Count", form="number")
    asked = eval_options(controls=6, prompting="", split="search", n=8, damage=True)
    found = evaluate(own_session, world.loaded, benchmark, vectors=[], options=asked, combinations={"both": parts})
    (row,) = found.rows
    assert (row.name, row.method, row.concept, row.lineage) == (
        "both",
        "combination",
        "attribute + counting",
        "backbone",
    )
    assert len(row.controls) == 6
    assert row.rank_p is not None
    assert row.damage is not None
    kinds = [one.kind for one in row.controls]
    assert set(kinds) == {"other_concept", "label_shuffled", "covariance", "random"}
    for control in row.controls:
        low, middle, high = control.cell.parts
        assert [replace(one, vector_id="") for one in control.cell.parts] == [
            replace(one, vector_id="") for one in row.cell.parts
        ]
        assert middle.vector_id == high.vector_id != low.vector_id  # of one vector one control, wherever it stands
        ones = [own_session.vector(one.vector_id) for one in (low, middle)]
        for one, real in zip(ones, (second, first), strict=True):
            assert one.provenance["control_of"] == real.vector_id
            assert one.provenance["control_kind"] == control.kind
            np.testing.assert_allclose(one.norms, real.norms, rtol=1e-5)
            if control.kind == "other_concept":
                assert one.provenance["control_concept"] in ("spatial_relationship", "entity")
        if control.kind == "random":
            units = [one.at(2) / np.linalg.norm(one.at(2)) for one in ones]
            assert abs(float(units[0] @ units[1])) < 0.5
    assert repr(read_sweep(own_session, found.sweep_id).rows) == repr(found.rows)


@pytest.mark.slow
def test_null_combinations_get_the_search_of_the_combination(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    grid = {"vectors": ["counting"], "layers": [3], "alphas": [9], "targets": ["image"], "splits": ["search"], "n": 6}
    both = {"name": "both", "parts": [{**PARTS[1]}, {**PARTS[2], "target": "text"}]}
    found = small_grid(
        own_session, world.loaded, tmp_path, combinations=[both], options=GridOptions(nulls=2, null_kinds=("random",)),
        **grid,
    ).tasks[0]  # fmt: skip
    rows = {row.name: row for row in found.choices}
    for row in rows.values():
        assert len(row.controls) == 2
        assert row.rank_p in (1 / 3, 2 / 3, 1.0)
    assert [len(one.cell.parts) for one in rows["both"].controls] == [2, 2]
    assert repr(read_sweep(own_session, found.sweep_id).rows) == repr(found.rows)


def test_a_combination_is_predicted_as_the_sum_of_its_parts_or_says_why_not(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    linear = {"name": "linear", "parts": [{**PARTS[1], "alpha": 0.05}, {**PARTS[2], "alpha": 0.05, "target": "text"}]}
    bent = {"name": "bent", "parts": PARTS}
    far = {"name": "far", "parts": [{**PARTS[1], "alpha": 1e4}, PARTS[2]]}
    grid = {"vectors": ["entity"], "layers": [4], "alphas": [1], "targets": ["image"]}
    job = small_job(own_session, world.loaded, tmp_path, combinations=[linear, bent, far], splits=["search"], **grid)
    wanted = GradientSource(bundle=world.loaded.bundle, load=lambda: world.loaded, device="cpu")
    screened = screen_task(own_session, tasks_of_sweep(job)[0], wanted)
    by_name = {one.name: one for one in screened.combinations}
    assert "project_out of entity has no first-order term" in str(by_name["bent"].reason)
    assert by_name["bent"].predicted is None
    assert by_name["far"].predicted is not None
    assert by_name["far"].predicted.beyond

    g = screened.gradients
    base, after = g.screen("image", (3,)).margins, g.screen("image", (3,)).margins.copy()
    for name, target in (("counting", "image"), ("attribute", "text")):
        delta = np.float32(0.05) * own_session.vector(name).at(3)
        after += np.stack(g.gather(target, 3)) @ delta
    lead = [log_lead(m, r) for m, r in zip(base, g.right, strict=True)]
    moved = [log_lead(m, r) for m, r in zip(after, g.right, strict=True)]
    predicted = by_name["linear"].predicted
    assert predicted is not None
    assert predicted.shift == pytest.approx(float(np.mean(moved) - np.mean(lead)), abs=1e-5)
    assert predicted.helped == sum(a > b for a, b in zip(moved, lead, strict=True))
    assert wish_of("scenes", job.grid.settings["bent"]).layers == (3, 4)


def log_lead(margins: Any, right: int) -> float:
    k = int((~np.isnan(margins)).sum())
    others = [float(m) for i, m in enumerate(margins) if i != right and not np.isnan(m)]
    return (float(margins[right]) - max(others)) * (k - 1) / k


def test_what_cannot_be_combined_is_refused_before_anything_runs(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    def job(*parts: dict[str, Any], **changes: Any) -> Any:
        wanted = ALONE | {"combinations": [{"name": "x", "parts": list(parts)}]} | changes
        return small_job(own_session, world.loaded, tmp_path, **wanted)

    with pytest.raises(NotFoundError, match="nobody"):
        job({**PARTS[0], "vector": "nobody"})
    with pytest.raises(UsageError, match="no layer 6"):
        job({**PARTS[0], "layer": 6})
    with pytest.raises(ManifestError, match="has no unit resid_norm"):
        job({**PARTS[0], "alpha_unit": "resid_norm"})
    with pytest.raises(UsageError, match="0 vectors of the sweep are of counting by lat"):
        job(
            {"concept": "counting", "method": "lat", "layer": 1, "alpha": 1}, vectors=["entity"], alphas=[1], layers=[1]
        )
    called = [{"name": "counting", "parts": [PARTS[0]]}]
    with pytest.raises(UsageError, match="two competitors are called counting"):
        job(combinations=called, vectors=["counting"], alphas=[1], layers=[1])
    with pytest.raises(UsageError, match="are the same"):
        job(combinations=[{"name": "x", "parts": PARTS[1:]}, {"name": "y", "parts": PARTS[1:]}])
    made = job({**PARTS[0], "layer": 3}, PARTS[1])
    assert made.grid.cells[0].cell.parts[0].operation == "project_out"
    assert [arm.name for arm in made.grid.arms] == ["x"]
    made = job({"concept": "counting", "layer": 1, "alpha": 1}, vectors=["counting", "entity"], alphas=[1], layers=[1])
    assert made.grid.arms[-1].parts[0].vector.name == own_session.vector("counting").name
    with pytest.raises(UsageError, match="strength 0"):
        evaluate(
            own_session, world.loaded, open_benchmark("scenes", task="Count", form="number"), vectors=[],
            options=eval_options(), combinations={"x": [Steering(vector=vector(), layer=1, alpha=0.0, target="text")]},
        )  # fmt: skip


def vector() -> SteeringVector:
    return SteeringVector(
        name="v", method="m", concept=None, site="resid_post", layers=(1,), values=np.ones((1, 96), np.float32)
    )


def test_order_that_matters_is_said_and_a_plan_counts_a_combination_from_its_lowest_layer(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    parts = [{**PARTS[0], "layer": 3}, PARTS[1], {**PARTS[2], "layer": 1}]
    wanted = ALONE | {"combinations": [{"name": "mixed", "parts": parts}]}
    job = small_job(own_session, world.loaded, tmp_path, **wanted)
    costs = costs_here(own_session.cache, world.loaded)
    plan = plan_sweep(job, costs, GridOptions())
    assert plan.tasks[0].n_cells == {"search": 2}
    alone = {"vectors": ["attribute"], "alphas": [6], "layers": [1], "targets": ["text"], "splits": ["search"], "n": 8}
    plain = plan_sweep(small_job(own_session, world.loaded, tmp_path / "p", **alone), costs, GridOptions())
    assert plan.tasks[0].modes["search"].seconds["branch"] == pytest.approx(
        plain.tasks[0].modes["search"].seconds["branch"], rel=0.05
    )
    found = small_grid(own_session, world.loaded, tmp_path, **wanted)
    assert found.tasks[0].notes == (
        "mixed: at layer 3 the parts act in the order listed: project_out entity, then add counting",
    )


def test_tokens_of_a_target_that_is_sql_are_kept_for_a_combination_too(
    own_session: Session, world: World, tmp_path: Path
) -> None:
    sql = ["sql: kind = 'image' and patch_row < 1", "sql: from_end < 3"]
    combinations = [
        {"name": "one", "parts": [{**PARTS[1], "target": sql[0]}, {**PARTS[2], "target": "text"}]},
        {"name": "two", "parts": [{**PARTS[1], "target": sql[0]}, {**PARTS[2], "target": sql[1]}]},
    ]
    found = small_grid(own_session, world.loaded, tmp_path, **(ALONE | {"combinations": combinations, "n": 4}))
    cells = {row.name: row.cell_id for row in found.tasks[0].choices}
    tokens = selected_in_cell(own_session.cache, cells["one"])
    assert len(tokens) == 4
    assert all(one.sum() > 0 for one in tokens.values())
    with pytest.raises(UsageError, match="2 targets that are SQL"):
        selected_in_cell(own_session.cache, cells["two"])
