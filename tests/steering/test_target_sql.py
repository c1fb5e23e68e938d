"""Targets as SQL: the same tokens, with the same weights, are steered live, in full, branched, replayed and in gradients."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import steercache
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import TokenClause, read_token_clause
from steercache.steering import live_hooks
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import ROUNDING, BranchCell
from steercache.steering.gradient import margin_gradients
from steercache.steering.operations import apply as applying
from steercache.steering.operations.change import change_of
from steercache.steering.plan_target import n_selected, plan_samples
from steercache.steering.recompute import recompute
from steercache.steering.replay import replay
from steercache.trace.batches import PaddedBatch
from steercache.trace.capture import model_inputs
from tests.steering.small import directions, padded_batch, small_model
from tests.steering.test_replay import stored
from tests.steering.told import told_batch

FIRST = BranchOptions(max_new_tokens=1)
LAYER, SEEN = 2, 1
CONDITION = SteeringVector(
    name="cond", method="m", concept=None, site="resid_post", layers=(SEEN, 3), values=directions(2, seed=5)
)
Facts = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """SQL, and what it says of one prompt in Python: weights of its tokens."""

    sql: str
    weights: Callable[[Facts], Any]


CASES = {
    "a row of patches": Case(
        sql="sql: kind = 'image' and patch_row < 1", weights=lambda t: (t["kind"] == "image") & (t["row"] == 0)
    ),
    "the last text tokens": Case(
        sql="sql: kind = 'text' and from_end < 3",
        weights=lambda t: (t["kind"] == "text") & (t["position"] >= len(t["position"]) - 3),
    ),
    "after a picture": Case(
        sql="sql: kind = 'text' and lag(kind) over (order by position) = 'image'",
        weights=lambda t: (t["kind"] == "text") & (np.roll(t["kind"], 1) == "image"),
    ),
    "the last patch, by a subquery": Case(
        sql="sql: position = (select max(position) from tokens where kind = 'image')",
        weights=lambda t: t["position"] == t["position"][t["kind"] == "image"].max(initial=-1),
    ),
    "weights": Case(
        sql="sql: select position, 1.0 / (1 + position) as weight from tokens where kind <> 'special'",
        weights=lambda t: np.where(t["kind"] == "special", 0, 1 / (1 + t["position"])).astype(np.float32),
    ),
    "of some prompts": Case(sql="sql: position = 7", weights=lambda t: t["position"] == 7),
    "of none": Case(sql="sql: token_id = 96 and kind = 'image'", weights=lambda t: t["position"] < 0),
    "where an activation projects on a vector": Case(
        sql=f"sql: list_inner_product(activation({SEEN}), vector('cond', {SEEN})) > 0 and position > 0",
        weights=lambda t: (t["hidden"] @ CONDITION.at(SEEN) > 0) & (t["position"] > 0),
    ),
}


def read(sql: str) -> TokenClause:
    return read_token_clause(sql, {"cond": CONDITION}.__getitem__)


def expected(loaded: LoadedModel, batch: PaddedBatch, case: Case) -> npt.NDArray[np.float32]:
    """Weights (b, t) from the case's own words."""
    with torch.no_grad():
        hidden = loaded.model(**model_inputs(loaded, batch), output_hidden_states=True).hidden_states[SEEN + 1]
    found = np.zeros(batch.input_ids.shape, dtype=np.float32)
    assert batch.samples is not None
    for slot, (start, n) in enumerate(zip(batch.starts, batch.lengths, strict=True)):
        sample = batch.samples[slot]
        facts = {
            "position": np.arange(n),
            "kind": np.array([("text", "special", "image", "template")[k] for k in sample.kind]),
            "row": sample.patch_row,
            "hidden": hidden[slot, start : start + n].numpy(),
        }
        found[slot, start : start + n] = case.weights(facts)
    return found


class Spy:
    """What was done to which rows: how far each went along the vector that is added, in units of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, batch: PaddedBatch, delta: npt.NDArray[np.float32]) -> None:
        self.moved = np.zeros(batch.input_ids.shape, dtype=np.float32)
        for module in (live_hooks, applying):  # by hooks, and by what branch and full share
            monkeypatch.setattr(module, "apply", self._spying(module.apply, delta))

    def _spying(self, apply: Any, delta: npt.NDArray[np.float32]) -> Any:
        def spy(hidden: torch.Tensor, change: Any, mask: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = apply(hidden, change, mask)
            steps = (out.double() - hidden.double()).detach().numpy() @ delta.astype(np.float64) / float(delta @ delta)
            self.moved[:, self.moved.shape[1] - hidden.shape[1] :] = steps
            return out

        return spy

    def take(self) -> npt.NDArray[np.float32]:
        moved, self.moved = self.moved, np.zeros_like(self.moved)
        return moved


def check_every_way(
    loaded: LoadedModel, batch: PaddedBatch, case: Case, spy: Spy, delta: npt.NDArray[np.float32], rows: Any
) -> None:
    """Steered rows, answers and gradients of one target against its own words."""
    weights, clause = expected(loaded, batch, case), read(case.sql)
    cell = BranchCell(key="x", layer=LAYER, delta_d=delta, target=clause)
    (branched,) = branch(loaded, batch, [cell], FIRST)
    moved = {"branch": spy.take()}
    (full,) = recompute(loaded, batch, [cell], FIRST)
    moved["full"] = spy.take()
    (replayed,) = replay(loaded, batch, [cell], stored=rows, options=FIRST)
    moved["replay"] = spy.take()
    for way, steps in moved.items():
        assert np.allclose(steps, weights, atol=1e-6), (case.sql, way)
        assert ((steps != 0) == (weights != 0)).all(), (case.sql, way)
    missed = ~weights.any(axis=1)
    for answers in (branched, full, replayed):
        found = np.zeros(len(missed), dtype=bool) if answers.missed_b is None else answers.missed_b.numpy()
        assert found.tolist() == missed.tolist()
        worst = (answers.logits_bv - full.logits_bv).abs().amax(1)
        assert (worst <= ROUNDING[torch.float32] * full.logits_bv.abs().amax(1)).all(), case.sql
    options = [(3, 4, 5)] * len(batch.lengths)
    grads = margin_gradients(loaded, batch, options, layers=[LAYER], targets={"t": clause})
    by_mask = margin_gradients(loaded, batch, options, layers=[LAYER], targets={"t": _array(weights)})
    assert np.array_equal(grads.values, by_mask.values)
    assert np.array_equal(grads.row_norms, by_mask.row_norms, equal_nan=True)
    assert grads.n_steered[:, 0].tolist() == (weights != 0).sum(1).tolist()


@pytest.mark.parametrize(("family", "side"), [("llama", "right"), ("paligemma", "left")])
def test_every_way_steers_the_same_tokens_by_the_same_weights(
    family: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, batch = small_model(family), told_batch(family, side=side)
    (delta,) = directions(1)
    spy, rows = Spy(monkeypatch, batch, delta), stored(loaded, batch)
    for case in CASES.values():
        check_every_way(loaded, batch, case, spy, delta, rows)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "side"), [("llava", "left"), ("gemma3", "right"), ("gpt2", "left")])
def test_every_way_steers_the_same_tokens_for_random_conditions(
    family: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, batch = small_model(family), told_batch(family, side=side)
    (delta,) = directions(1)
    spy, rows = Spy(monkeypatch, batch, delta), stored(loaded, batch)
    rng = np.random.default_rng(0)
    for _ in range(12):
        at, by, row, sign = (
            int(rng.integers(1, 9)),
            int(rng.integers(2, 5)),
            int(rng.integers(0, 2)),
            rng.choice([-1, 1]),
        )
        after_picture = "lag(kind) over (order by position) = 'image'"
        where = f"(position % {by} = 0 or patch_row = {row}) and position < {at} or {after_picture}"

        def weights(t: Facts, at: int = at, by: int = by, row: int = row, sign: int = int(sign)) -> Any:
            after = np.concatenate([[False], t["kind"][:-1] == "image"])
            hit = ((t["position"] % by == 0) | (t["row"] == row)) & (t["position"] < at) | after
            return np.where(hit, sign * (0.5 + t["position"]), 0).astype(np.float32)

        weight = f"{sign} * (0.5 + position)"
        text = f"sql: select position, {weight} as weight from tokens qualify {where}"
        check_every_way(loaded, batch, Case(sql=text, weights=weights), spy, delta, rows)


def _array(weights: npt.NDArray[np.float32]) -> Any:
    """Weights as a target that hits something of some prompt, or a function that hits nothing."""
    mask = torch.from_numpy(weights if set(np.unique(weights)) - {0, 1} else weights != 0)
    if mask.any():
        return mask
    return read("sql: position < 0")


@pytest.mark.parametrize("name", list(CASES))
def test_a_pass_of_ones_own_steers_the_same_tokens(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, batch = small_model("llama"), told_batch("llama")
    (delta,) = directions(1)
    case, spy = CASES[name], Spy(monkeypatch, batch, delta)
    weights = expected(loaded, batch, case)
    vec = SteeringVector(
        name="v", method="m", concept=None, site="resid_post", layers=(LAYER, 3), values=np.stack([delta] * 2)
    )
    clause = read(case.sql)
    assert batch.samples is not None
    planned = plan_samples(loaded, clause, batch.samples)
    assert n_selected(planned, batch.samples) == (weights != 0).sum(1).tolist()
    targets = [planned] if "patch" in case.sql else [planned, clause]
    for target in targets:
        with steercache.steer(loaded, vec, layer=LAYER, alpha=1.0, target=target), torch.no_grad():
            if not weights.any() and "activation" not in case.sql:
                with pytest.raises(UsageError, match="selects no token"):
                    loaded.model(**model_inputs(loaded, batch))
                continue
            loaded.model(**model_inputs(loaded, batch))
        assert np.allclose(spy.take(), weights, atol=1e-6)


def test_a_planned_target_is_about_its_prompts_in_any_batch_and_no_others() -> None:
    loaded, batch = small_model("llama"), told_batch("llama")
    vec = SteeringVector(name="v", method="m", concept=None, site="resid_post", layers=(LAYER,), values=directions(1))
    assert batch.samples is not None
    planned = plan_samples(loaded, read("sql: from_end < 2"), batch.samples[:1])
    with steercache.steer(loaded, vec, layer=LAYER, alpha=1.0, target=planned), torch.no_grad():
        alone = loaded.model(torch.from_numpy(batch.samples[0].input_ids)[None].long()).logits[0, -1]
        with pytest.raises(UsageError, match="prompt 2 of the pass is none of those"):
            loaded.model(**model_inputs(loaded, batch))
    (branched,) = branch(
        loaded, batch, [BranchCell(key="x", layer=LAYER, delta_d=directions(1)[0], target=read("from_end < 2"))], FIRST
    )
    assert torch.allclose(branched.logits_bv[0], alone, atol=1e-4)


def test_prompts_that_only_their_pictures_tell_apart_are_planned_alike_or_not_together() -> None:
    loaded, batch = small_model("llava"), told_batch("llava")
    assert batch.samples is not None
    one = batch.samples[0]
    other = replace(one, image_digests=("f" * 64,))
    planned = plan_samples(loaded, read("sql: kind = 'image'"), [one, other])
    assert n_selected(planned, [one, other]) == [4, 4]
    with pytest.raises(UsageError, match="cannot tell apart"):
        plan_samples(loaded, read(f"sql: sample_id = '{one.sample_id}'"), [one, other])


def test_a_weight_of_one_is_true_and_a_weight_of_half_is_half_the_strength() -> None:
    loaded, batch = small_model("llama"), told_batch("llama")
    vec = SteeringVector(name="v", method="m", concept=None, site="resid_post", layers=(LAYER,), values=directions(1))
    ones = read("select position, 1.0 as weight from tokens where position > 1")
    halves = read("select position, 0.5 as weight from tokens where position > 1")
    mask = read("position > 1")
    for operation in (
        "add",
        "project_out",
        "clamp:value=2",
        "project_cap:bound=1",
        "replace",
        "rotate",
        "add_preserving_norm",
    ):
        op = steercache.core.operations.read_operation(operation)

        def cell(key: str, target: TokenClause, alpha: float, op: Any = op) -> BranchCell:
            change = change_of(vec, LAYER, alpha=alpha, operation=op)
            return BranchCell(key=key, layer=LAYER, delta_d=change.delta_d, target=target, change=change)

        cells = [cell("mask", mask, 0.5), cell("ones", ones, 0.5), cell("half", halves, 1.0), cell("whole", mask, 1.0)]
        exact = BranchOptions(max_new_tokens=1, same_batch=True)
        got = {a.key: a.logits_bv for a in branch(loaded, batch, cells, exact)}
        assert torch.equal(got["mask"], got["ones"]), operation
        assert torch.allclose(got["half"], got["mask"], atol=1e-4), operation
        assert not torch.equal(got["half"], got["whole"]), operation
        together = {a.key: a.logits_bv for a in branch(loaded, batch, cells, FIRST)}
        assert all(torch.allclose(together[key], got[key], atol=1e-3) for key in got), operation


def _steps(loaded: LoadedModel, vec: SteeringVector, n_new: int, **how: Any) -> list[list[int]]:
    """Which tokens of every pass of a generation are steered, by their column."""
    seen: list[list[int]] = []
    ids = padded_batch("llama", lengths=(6,)).input_ids
    outputs: list[torch.Tensor] = []
    keep = loaded.model.model.layers[LAYER].register_forward_hook(lambda m, a, out: outputs.append(out.clone()))
    with steercache.steer(loaded, vec, layer=LAYER, alpha=1.0, **how), torch.no_grad():
        after = loaded.model.model.layers[LAYER].register_forward_hook(
            lambda m, a, out: seen.append((out - outputs[-1]).abs().sum(-1)[0].nonzero().flatten().tolist())
        )
        loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False
        )
    keep.remove()
    after.remove()
    return seen


def test_phases_and_the_first_generated_tokens() -> None:
    loaded = small_model("llama")
    vec = SteeringVector(name="v", method="m", concept=None, site="resid_post", layers=(LAYER,), values=directions(1))
    target = "sql: position % 2 = 1"
    assert _steps(loaded, vec, 5, target=target) == [[1, 3, 5], [], [], [], []]
    assert _steps(loaded, vec, 5, target=target, when="generated") == [[], [], [0], [], [0]]  # positions 6, 7, 8, 9
    assert _steps(loaded, vec, 5, target=target, when="every") == [[1, 3, 5], [], [0], [], [0]]
    assert _steps(loaded, vec, 5, target="sql: generated = 1", when="generated") == [[], [], [0], [], []]
    assert _steps(loaded, vec, 5, target="all", when="generated", n_generated=2) == [[], [0], [0], [], []]
    assert _steps(loaded, vec, 5, target="last", when="every", n_generated=1) == [[5], [0], [], [], []]
    with pytest.raises(UsageError, match="is about the prompt"):
        _steps(loaded, vec, 5, target="sql: lag(token_id) over (order by position) = 1", when="every")


def test_what_a_pass_cannot_know_is_refused_with_a_remedy() -> None:
    loaded, batch = small_model("llama"), told_batch("llama")
    vec = SteeringVector(name="v", method="m", concept=None, site="resid_post", layers=(0, LAYER), values=directions(2))
    own = f"sql: list_inner_product(activation({LAYER}), vector('v', {LAYER})) > 0"
    with (
        pytest.raises(UsageError, match=f"looks at layer {LAYER}"),
        steercache.steer(loaded, vec, layer=0, alpha=1.0, target=own),
    ):
        pass
    with steercache.steer(loaded, vec, layer=LAYER, alpha=1.0, target=own), torch.no_grad():
        loaded.model(**model_inputs(loaded, batch))
    with (
        pytest.raises(NotFoundError, match="'other'"),
        steercache.steer(loaded, vec, layer=0, alpha=1.0, target="sql: list_sum(vector('other', 0)) > 0"),
    ):
        pass
    with steercache.steer(loaded, vec, layer=0, alpha=1.0, target="sql: patch_row = 0"), torch.no_grad():
        with pytest.raises(UsageError, match="patch_row is not known") as caught:
            loaded.model(**model_inputs(loaded, batch))
        assert "plan_target" in str(caught.value.hint)
    with (
        pytest.raises(UsageError, match="does not know which"),
        steercache.steer(loaded.model, vec, layer=0, alpha=1.0, target="sql: kind = 'text'"),
    ):
        pass


def test_a_cell_that_hits_nothing_answers_as_the_unsteered_model() -> None:
    loaded, batch = small_model("llama"), told_batch("llama")
    (delta,) = directions(1)
    cells = [
        BranchCell(key="none", layer=LAYER, delta_d=delta, target="sql: position < 0"),
        BranchCell(key="zero", layer=LAYER, delta_d=0 * delta, target="all"),
        BranchCell(key="some", layer=LAYER, delta_d=delta, target="sql: position = 7"),
    ]
    got = {a.key: a for a in branch(loaded, batch, cells, BranchOptions(max_new_tokens=3))}
    assert torch.equal(got["none"].logits_bv, got["zero"].logits_bv)
    assert got["none"].tokens == got["zero"].tokens
    assert got["none"].missed_b is not None
    assert bool(got["none"].missed_b.all())
    assert got["zero"].missed_b is None
    assert got["some"].missed_b is not None
    for slot, missed in enumerate(got["some"].missed_b.tolist()):
        same = torch.allclose(got["some"].logits_bv[slot], got["zero"].logits_bv[slot], atol=1e-4)
        assert same == missed == (batch.lengths[slot] < 8)
