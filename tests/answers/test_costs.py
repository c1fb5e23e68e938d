"""Costs measured on a planted clock, predictions against what really runs on it, and the choice that follows."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from steercache.answers.costs import MachineCosts, choose_mode, predict_seconds
from steercache.answers.damage import neutral_samples
from steercache.answers.work import BatchWork, CellKind, PendingWork
from steercache.cells.options import ModeRequest
from steercache.core.errors import UsageError
from steercache.core.trials import Mode
from steercache.steering import costs as steer_costs
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import BranchCell
from steercache.steering.costs import ForwardCosts, fit_line, measure_costs, timing_plan
from steercache.steering.recompute import recompute
from steercache.steering.replay import replay
from tests.steering.small import N_LAYERS, directions, padded_batch, small_model
from tests.steering.test_replay import stored
from tests.steering.ticking import planted, ticking
from tests.world import World

FIRST = BranchOptions(max_new_tokens=1)
N_TOKENS, N_PATCHES = 12, 4
PASS = 1e-3  # seconds of a forward pass outside its parts


def test_planted_costs_are_measured(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = [len(m._forward_hooks) for m in world.loaded.model.modules()]
    with ticking(world.loaded) as clock:
        monkeypatch.setattr(steer_costs.time, "perf_counter", clock.perf_counter)
        found = measure_costs(world.loaded, neutral_samples(world.loaded.bundle))
    assert asdict(found) == pytest.approx(asdict(planted(world.loaded.spec.n_layers)), rel=1e-6)
    assert [len(m._forward_hooks) for m in world.loaded.model.modules()] == hooks


@pytest.mark.parametrize("cold_s", [0.0, 5.0])
def test_a_cold_start_and_disturbances_are_not_measured(
    cold_s: float, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ticking(world.loaded) as clock:
        n_passes = 0
        forward = steer_costs._forward

        def disturbed(*args: Any) -> None:
            nonlocal n_passes
            n_passes += 1
            forward(*args)
            clock.now += PASS + (cold_s if n_passes == 1 else 0.3 if n_passes % 3 == 0 else 0.0)

        monkeypatch.setattr(steer_costs, "_forward", disturbed)
        monkeypatch.setattr(steer_costs.time, "perf_counter", clock.perf_counter)
        found = measure_costs(world.loaded, neutral_samples(world.loaded.bundle))
    assert found.pass_s == pytest.approx(PASS)
    assert found.block_token_s == pytest.approx(planted(1).block_token_s, rel=1e-6)
    assert found.block_call_s == pytest.approx(planted(1).block_call_s, rel=1e-6)


def test_a_fixed_cost_is_no_part_of_the_slope_and_one_disturbed_size_moves_neither() -> None:
    fixed, each = 0.05, 1e-4
    points = [(n, fixed + each * n) for n in (100, 200, 400, 800)]
    assert fit_line(points) == pytest.approx((fixed, each))
    for i in range(4):  # someone else ran while this size was timed
        disturbed = [(n, s + 0.5 * (k == i)) for k, (n, s) in enumerate(points)]
        intercept, slope = fit_line(disturbed)
        n = 1000
        assert intercept + slope * n == pytest.approx(fixed + each * n, rel=0.5)
    assert fit_line([(100, 0.3)]) == (0.0, pytest.approx(0.003))
    assert fit_line([(100, 0.3), (200, 0.2)]) == (0.0, pytest.approx(0.002))  # less for more: noise


def test_what_a_slow_model_takes_to_time_stays_near_the_budget() -> None:
    for warm_s in (1e-4, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 30.0):
        sizes, repeats = timing_plan(warm_s, n_samples=8)
        took = warm_s * sum(sizes) * (1 + repeats)
        assert took <= steer_costs.BUDGET_S or sizes in ((1,), (1, 2))
        assert repeats >= 2
        assert len(sizes) > 1 or warm_s > steer_costs.SLOW_S


def machine(forward: ForwardCosts | None = None, **changes: Any) -> MachineCosts:
    known: dict[str, Any] = {"read_s_per_byte": 0.0, "n_layers": N_LAYERS, "row_bytes": 128}
    return MachineCosts(forward=forward or planted(N_LAYERS), **(known | changes))


# (layer or None, target, how many): text begins behind BOS and picture; a causal model is not touched before
CELLS = ((None, "all", 1), (0, "image", 2), (1, "text", 3), (2, "text", 1), (2, "both", 2), (3, "text", 2))
STARTS = {"image": 1, "both": 1, "text": 1 + N_PATCHES, "all": 0}


def work_and_cells(n_seq: int) -> tuple[PendingWork, list[BranchCell]]:
    kinds, cells = [], []
    for layer, target, n in CELLS:
        moves = layer is not None and layer < N_LAYERS - 1
        kinds.append((CellKind(layer=layer, start=STARTS[target], moves=moves), n))
        for delta in directions(n):
            key = str(len(cells))
            cells.append(BranchCell(key=key, layer=layer or 0, delta_d=delta * (layer is not None), target=target))  # type: ignore[arg-type]
    batch = BatchWork(n_seq=n_seq, n_tokens=N_TOKENS, n_more=0, cells=tuple(kinds))
    return PendingWork(batches=(batch,), n_to_compute=n_seq * len(cells), n_cached=0), cells


def test_a_prediction_is_what_really_runs() -> None:
    loaded, batch = small_model("idefics3"), padded_batch("idefics3", lengths=(N_TOKENS,) * 3)
    rows = stored(small_model("idefics3"), batch)  # nnsight leaves its own forward on the blocks that it saw
    work, cells = work_and_cells(3)
    predicted = predict_seconds(machine(), work)
    ways = {
        "branch": lambda: branch(loaded, batch, cells, FIRST),
        "full": lambda: recompute(loaded, batch, cells, FIRST),
        "replay": lambda: replay(loaded, batch, cells, stored=rows),
    }
    took = {}
    for mode, run in ways.items():
        with ticking(loaded) as clock:
            assert len(list(run())) == len(cells)
        took[mode] = clock.now
    assert predicted["full"] == pytest.approx(took["full"])
    assert predicted["branch"] == pytest.approx(took["branch"])
    assert predicted["replay"] == pytest.approx(took["replay"])
    assert took["replay"] < took["branch"] < took["full"]


def test_decoding_is_counted_by_step_and_sequence() -> None:
    work, _ = work_and_cells(3)
    longer = replace(work, batches=(replace(work.batches[0], n_more=4),))
    more = {
        mode: predict_seconds(machine(), longer)[mode] - predict_seconds(machine(), work)[mode]
        for mode in ("branch", "full")
    }
    step, row = planted(N_LAYERS).step_s, planted(N_LAYERS).step_row_s
    n_moving, n_all = 8, 11
    assert more["branch"] == pytest.approx(
        4 * (step + 3 * n_moving * row) + 4 * (step + 3 * row)
    )  # together; and one still
    assert more["full"] == pytest.approx(4 * n_all * (step + 3 * row))


def test_answers_that_are_options_are_counted_at_their_own_length() -> None:
    asked = work(*GRID, n_more=7)
    costs = machine(replace(ZERO, step_s=1.0))
    short = replace(asked, batches=(replace(asked.batches[0], n_likely=1),))
    longer = replace(asked, batches=(replace(asked.batches[0], n_likely=99),))
    in_full = {likely: predict_seconds(costs, some)["full"] for likely, some in ((7, asked), (1, short), (99, longer))}
    assert in_full[7] - in_full[1] == pytest.approx(6 * asked.batches[0].n_cells)
    assert in_full[99] == in_full[7]
    assert not short.first_tokens_only  # one may still write on


def test_passes_and_inputs_are_counted_once_where_cells_share_them() -> None:
    asked, _ = work_and_cells(3)
    plain = predict_seconds(machine(), asked)
    costly = predict_seconds(machine(replace(planted(N_LAYERS), pass_s=1.0, input_s=10.0)), asked)
    n_cells, n_seq = asked.batches[0].n_cells, 3
    assert costly["branch"] - plain["branch"] == pytest.approx(1.0 + 10.0 * n_seq)
    assert costly["full"] - plain["full"] == pytest.approx(n_cells * 1.0 + 10.0 * n_seq)
    assert costly["replay"] == plain["replay"]  # rows are read: no picture, no whole pass


def work(*cells: tuple[int | None, int], n_more: int = 0) -> PendingWork:
    """4 questions of 100 tokens, and so many cells at each layer."""
    kinds = tuple((CellKind(layer=layer, moves=layer is not None), n) for layer, n in cells)
    batch = BatchWork(n_seq=4, n_tokens=100, n_more=n_more, cells=kinds)
    return PendingWork(batches=(batch,), n_to_compute=4 * batch.n_cells, n_cached=0)


ZERO = ForwardCosts(block_call_s=0, block_token_s=1e-6, head_row_s=0, picture_s=0, step_s=0, step_row_s=0)
GRID = ((None, 1), (0, 5), (2, 5))
NO_ROWS = {"replay": "no run"}


@pytest.mark.parametrize(
    ("asked", "forward", "read", "barred", "expected"),
    [
        (work(*GRID), {}, 0.0, {}, "replay"),
        (work(*GRID), {}, 1e-3, {}, "branch"),  # a disk so slow that blocks are quicker
        (work(*GRID), {}, 0.0, NO_ROWS, "branch"),
        (work(*GRID), {"picture_s": 1.0}, 1e-8, {}, "replay"),
        (work((0, 1)), {}, 0.0, NO_ROWS, "full"),  # a single cell: a pass to branch from is one too many
        (work((0, 1)), {}, 0.0, {}, "replay"),
        (work((2, 1), (None, 1)), {}, 0.0, NO_ROWS, "branch"),
        (work(*GRID, n_more=7), {"step_s": 1.0}, 0.0, NO_ROWS, "branch"),  # full forwards cannot decode together
        (work(*GRID), {}, 0.0, {"replay": "no run", "branch": "an obstacle"}, "full"),
    ],
)
def test_the_choice_follows_the_costs(
    asked: PendingWork, forward: dict[str, float], read: float, barred: dict[Mode, str], expected: str
) -> None:
    costs = machine(replace(ZERO, **forward), read_s_per_byte=read)
    seconds = predict_seconds(costs, asked)
    choice = choose_mode(asked, seconds, barred)
    assert choice.mode == expected
    assert not choice.forced
    assert set(choice.seconds) == {"full", "replay", "branch"} - set(barred)
    assert choice.seconds[expected] == min(choice.seconds.values())
    for mode, why in barred.items():
        assert f"no {'replaying' if mode == 'replay' else 'branching'}: {why}" in choice.reason
    assert f"for {asked.n_to_compute} answers" in choice.reason


@pytest.mark.parametrize("wanted", ["replay", "branch", "full"])
def test_a_way_can_be_forced_unless_it_is_barred(wanted: ModeRequest) -> None:
    asked = work(*GRID)
    seconds = predict_seconds(machine(), asked)
    choice = choose_mode(asked, seconds, {}, wanted=wanted, begun="branch")
    assert (choice.mode, choice.forced) == (wanted, True)
    assert "as asked for" in choice.reason
    with pytest.raises(UsageError, match="because of this"):
        choose_mode(asked, seconds, {wanted: "because of this"}, wanted=wanted)  # type: ignore[dict-item]


def test_what_was_begun_in_one_way_goes_on_in_it_where_it_can() -> None:
    asked = work(*GRID)
    seconds = predict_seconds(machine(), asked)
    choice = choose_mode(asked, seconds, {}, begun="full")
    assert (choice.mode, choice.forced) == ("full", False)
    assert "as this sweep was begun" in choice.reason
    assert choose_mode(asked, seconds, {"replay": "gone"}, begun="replay").mode == "branch"


def test_where_nothing_is_left_to_compute_answers_are_read() -> None:
    done = PendingWork(batches=(), n_to_compute=0, n_cached=1200)
    choice = choose_mode(done, predict_seconds(machine(), done), {}, wanted="full")
    assert (choice.mode, choice.forced) == ("read", False)
    assert "all 1,200 answers are in the cache" in choice.reason
