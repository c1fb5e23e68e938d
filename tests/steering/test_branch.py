"""Branching against the model itself: steered by hooks, whole forwards and `generate`, family by family."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations, takewhile
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.core.errors import BudgetError, UsageError
from steercache.core.vectors import SteeringVector
from steercache.models import families
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch, branch_from
from steercache.steering.cells import ROUNDING, BranchCell
from steercache.steering.prefill import Prefill, run_prefill
from steercache.trace.batches import PaddedBatch
from steercache.trace.capture import model_inputs
from tests.steering.memory import peak_bytes
from tests.steering.small import FAMILIES, IMAGE, N_LAYERS, WIDTH, directions, padded_batch, small_model

N_NEW = 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WAYS = {
    "left-fp32": ("left", torch.float32),
    "right-fp32": ("right", torch.float32),
    "left-bf16": ("left", torch.bfloat16),
}


def cells_for(family: str) -> list[BranchCell]:
    """Two vectors at the first and a middle layer, one at the last, on every target."""
    targets = ("all", "last", "text", *(("image", "both") if family in IMAGE else ()))
    return [
        BranchCell(key=f"{target}@{layer}:{i}", layer=layer, delta_d=delta, target=target)
        for target in targets
        for layer, n in ((0, 2), (2, 1), (N_LAYERS - 1, 1))
        for i, delta in enumerate(directions(n))
    ]


def steered(loaded: LoadedModel, cell: BranchCell) -> Any:
    """The cell as live steering: alpha 1 times its delta."""
    vec = SteeringVector(
        name="v", method="m", concept=None, site="resid_post", layers=(cell.layer,), values=cell.delta_d[None]
    )
    return steercache.steer(loaded, vec, layer=cell.layer, alpha=1.0, target=cell.target)


@torch.no_grad()
def full_logits(loaded: LoadedModel, batch: PaddedBatch, cell: BranchCell) -> torch.Tensor:
    """First-token logits (b, vocabulary) of the whole model with a hook."""
    last = [start + n - 1 for start, n in zip(batch.starts, batch.lengths, strict=True)]
    columns = sorted(set(last))
    keep: Any = 1 if columns == [batch.input_ids.shape[1] - 1] else torch.tensor(columns)
    with steered(loaded, cell):
        logits = loaded.model(**model_inputs(loaded, batch), logits_to_keep=keep).logits
    return logits[torch.arange(len(last)), [columns.index(c) for c in last]].float()


@torch.no_grad()
def generated(
    loaded: LoadedModel, batch: PaddedBatch, cell: BranchCell, ends: Iterable[int] = (2,)
) -> list[tuple[int, ...]]:
    """What `generate` says under live steering, up to the token that ended it."""
    inputs = {**{n: x for n, x in model_inputs(loaded, batch).items() if n not in ("use_cache", "position_ids")}}
    with steered(loaded, cell):
        out = loaded.model.generate(
            **inputs, max_new_tokens=N_NEW, do_sample=False, pad_token_id=0, eos_token_id=list(ends)
        )
    rows = out[:, batch.input_ids.shape[1] :].tolist()
    return [cut(row, ends) for row in rows]


def cut(row: Iterable[int], ends: Iterable[int]) -> tuple[int, ...]:
    return tuple(takewhile(lambda token: token not in ends, row))


@dataclass(frozen=True)
class Case:
    loaded: LoadedModel
    batch: PaddedBatch
    prefill: Prefill
    cells: list[BranchCell]

    def run(self, **options: Any) -> dict[str, Any]:
        return {a.key: a for a in branch_from(self.prefill, self.cells, BranchOptions(**options))}


def case(family: str, dtype: torch.dtype = torch.float32, side: str = "left", **changes: Any) -> Case:
    loaded, batch = small_model(family, dtype, **changes), padded_batch(family, side=side, dtype=dtype)
    return Case(loaded, batch, run_prefill(loaded, batch, layers=range(N_LAYERS)), cells_for(family))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(("side", "dtype"), WAYS.values(), ids=WAYS)
def test_first_tokens_are_those_of_the_full_steered_forward(family: str, side: str, dtype: torch.dtype) -> None:
    c = case(family, dtype, side)
    alone, together = c.run(same_batch=True, max_new_tokens=1), c.run(max_new_tokens=1)
    assert c.prefill.obstacle is None
    assert set(alone) == set(together) == {cell.key for cell in c.cells}
    for cell in c.cells:
        expected = full_logits(c.loaded, c.batch, cell)
        assert torch.equal(alone[cell.key].logits_bv, expected), cell.key
        close = (together[cell.key].logits_bv - expected).abs().amax(1) <= ROUNDING[dtype] * expected.abs().amax(1)
        assert close.all(), cell.key
        clear = ~together[cell.key].near_tie_b
        firsts = torch.tensor([[*t, 2][0] for t in together[cell.key].tokens])
        assert torch.equal(firsts[clear], expected.argmax(1)[clear]), cell.key
        assert clear.all() or dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_free_form_answers_are_those_of_generate_under_live_steering(family: str, dtype: torch.dtype) -> None:
    c = case(family, dtype)
    alone, together = c.run(same_batch=True, max_new_tokens=N_NEW), c.run(max_new_tokens=N_NEW)
    for cell in c.cells[:: 5 if dtype == torch.bfloat16 else 3]:
        expected = generated(c.loaded, c.batch, cell)
        assert list(alone[cell.key].tokens) == expected, cell.key
        for i, (ours, theirs) in enumerate(zip(together[cell.key].tokens, expected, strict=True)):
            assert ours == theirs or (dtype == torch.bfloat16 and together[cell.key].near_tie_b[i]), cell.key


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "idefics3"])
def test_an_answer_ends_where_generate_ends_it(family: str) -> None:
    """The ids that end an answer are taken from what the model says, so that some end at once, some later, some never."""
    c = case(family)
    free = c.run(max_new_tokens=N_NEW, ends=frozenset())
    rows = [tokens for cell in c.cells[::3] for tokens in free[cell.key].tokens]
    pairs = combinations(sorted({token for row in rows for token in row}), 2)
    ends = max((frozenset(pair) for pair in pairs), key=lambda ends: len({len(cut(row, ends)) for row in rows}))
    lengths = set()
    for same_batch in (True, False):
        answers = c.run(max_new_tokens=N_NEW, ends=ends, same_batch=same_batch)
        for cell in c.cells[::3]:
            answer, expected = answers[cell.key], generated(c.loaded, c.batch, cell, ends=ends)
            assert list(answer.tokens) == expected
            assert answer.ended == tuple(len(row) < N_NEW for row in expected)
            lengths.update(len(row) for row in expected)
    assert len(lengths) >= 3
    assert len({answer.tokens for answer in free.values()}) >= 4


def test_prompts_padded_on_the_right_are_answered_like_those_padded_on_the_left(family: str) -> None:
    left, right = case(family).run(max_new_tokens=N_NEW), case(family, side="right").run(max_new_tokens=N_NEW)
    for key, answer in left.items():
        clear = ~(answer.near_tie_b | right[key].near_tie_b)
        assert clear.all()
        assert right[key].tokens == answer.tokens


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.values[0] in IMAGE])
def test_the_last_block_on_image_tokens_changes_nothing_at_all(family: str) -> None:
    c = case(family)
    still = replace(c.cells[0], delta_d=np.zeros(WIDTH, np.float32))
    plain, said = full_logits(c.loaded, c.batch, still), generated(c.loaded, c.batch, still)
    cells = [cell for cell in c.cells if cell.layer == N_LAYERS - 1 and cell.target == "image"]
    for same_batch in (True, False):
        for answer in branch_from(c.prefill, cells, BranchOptions(same_batch=same_batch, max_new_tokens=N_NEW)):
            assert torch.equal(answer.logits_bv, plain if same_batch else c.prefill.logits_bv)
            assert list(answer.tokens) == said


def test_a_vector_of_zeros_is_the_unsteered_model_bit_for_bit() -> None:
    c = case("llama")
    still = BranchCell(key="0", layer=1, delta_d=np.zeros(WIDTH, np.float32))
    (answer,) = branch_from(c.prefill, [still], BranchOptions(max_new_tokens=N_NEW, same_batch=True))
    assert torch.equal(answer.logits_bv, full_logits(c.loaded, c.batch, still))
    assert list(answer.tokens) == generated(c.loaded, c.batch, still)


@pytest.mark.parametrize(
    ("family", "target", "n_run"),
    [
        ("idefics3", "text", 7),
        ("idefics3", "image", 11),
        ("llava_onevision", "text", 7),
        ("gemma3", "text", 7),
        ("paligemma", "text", 12),
    ],
)
def test_only_what_steering_can_change_is_computed(family: str, target: str, n_run: int) -> None:
    """BOS, four image tokens and text: 12 columns in all. A prefix that attends both ways is computed whole."""
    loaded, batch = small_model(family), padded_batch(family, lengths=(12, 12))
    prefill = run_prefill(loaded, batch, layers=[1])
    seen: list[tuple[int, ...]] = []
    handles = [
        block.register_forward_pre_hook(lambda m, args, kw: seen.append(kw["hidden_states"].shape), with_kwargs=True)
        for block in prefill.parts.blocks
    ]
    cells = [BranchCell(key=str(i), layer=1, delta_d=d, target=target) for i, d in enumerate(directions(3))]  # type: ignore[arg-type]
    list(branch_from(prefill, cells, BranchOptions(max_new_tokens=1)))
    for handle in handles:
        handle.remove()
    assert seen == [(3 * 2, n_run, WIDTH)] * (N_LAYERS - 2)


def test_memory_stays_within_the_budget_and_answers_do_not_hang_on_it() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama", lengths=(40, 38))
    prefill = run_prefill(loaded, batch, layers=range(N_LAYERS))
    cells = [
        BranchCell(key=f"{layer}:{i}", layer=layer, delta_d=d, target=target)  # type: ignore[arg-type]
        for layer in (0, 1)
        for target in ("all", "last")
        for i, d in enumerate(directions(16))
    ]
    budgets = (1_500_000, 6_000_000, 10**9)
    answers, peaks = [], []
    for budget in budgets:
        options = BranchOptions(max_new_tokens=4, memory_budget_bytes=budget)
        found, peak = peak_bytes(lambda options=options: list(branch_from(prefill, cells, options)))
        answers.append({a.key: a.tokens for a in found})
        peaks.append(peak)
    kept = sum(a.logits_bv.nbytes for a in found)  # the caller's own list
    assert answers[0] == answers[1] == answers[2]
    assert peaks[0] - kept < budgets[0]
    assert peaks[1] - kept < budgets[1]
    assert peaks[2] > peaks[1] > peaks[0]
    with pytest.raises(BudgetError, match="one cell over 2 samples needs about 1 MiB"):
        list(branch_from(prefill, cells, BranchOptions(memory_budget_bytes=10_000)))


def test_a_model_that_does_more_after_its_last_block_is_run_in_full_and_says_why() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    handle = loaded.model.register_forward_hook(lambda m, a, out: out.__setitem__("logits", out.logits * 2))
    cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    (answer,) = branch(loaded, batch, [cell], BranchOptions(max_new_tokens=N_NEW))
    expected, said = full_logits(loaded, batch, cell), generated(loaded, batch, cell)
    handle.remove()
    assert answer.mode == "full"
    assert answer.reason is not None
    assert "norm and a head" in answer.reason
    assert torch.equal(answer.logits_bv, expected)
    assert list(answer.tokens) == said


def test_wrong_cells_are_refused_before_anything_runs() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    good = BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    for bad, words in (
        (replace(good, layer=9), "no layer 9"),
        (replace(good, delta_d=np.ones(5, np.float32)), "32 wide"),
        (replace(good, target="image"), "no image tokens"),
    ):
        with pytest.raises(UsageError, match=words):
            list(branch(loaded, batch, [bad]))


def test_hooks_are_gone_afterwards_even_when_the_forward_fails() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    with pytest.raises(IndexError):
        run_prefill(loaded, replace(batch, input_ids=batch.input_ids + 1000), layers=[0])
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in loaded.model.modules())


def test_every_multimodal_family_of_the_table_is_branched_here() -> None:
    assert {row.name for row in families.FAMILIES if row.modality == "image"} == set(IMAGE) - {"gemma4 large"}
