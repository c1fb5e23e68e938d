"""Several changes in one cell against a plain forward with hooks: branched, stacked, in full, replayed and decoded."""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.answers.damage import damage_of, kl_nats
from steercache.core.errors import UsageError
from steercache.core.operations import read_operation
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.queries.token_clause import read_token_clause
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import ROUNDING, BranchCell, BranchPart, combined
from steercache.steering.effect_inputs import EffectInputs
from steercache.steering.operations.change import change_of
from steercache.steering.parts import parts_of
from steercache.steering.recompute import recompute
from steercache.steering.replay import replay
from steercache.trace.batches import PaddedBatch
from steercache.trace.capture import model_inputs
from tests.steering.small import IMAGE, IMAGE_ID, N_LAYERS, padded_batch, small_model
from tests.steering.test_replay import stored
from tests.steering.tiny import vector

V = [vector(0, 1, 2, 3, name=name, width=32, scale=1.5) for name in "abc"]
for i, one in enumerate(V):
    one.values[:] = np.random.default_rng(i).normal(size=one.values.shape)
EXACT, FIRST = BranchOptions(max_new_tokens=1, same_batch=True), BranchOptions(max_new_tokens=1)

Part = tuple[int, int, float, str, str]  # vector, layer, strength, operation, target
LAST = N_LAYERS - 1
FOUR: list[Part] = [
    (0, 2, 1.5, "add", "all"),
    (1, 0, 0.7, "project_out", "last"),
    (2, 2, 1.0, "clamp:value=2", "last"),
    (0, LAST, -0.5, "add", "all"),
]


def part(one: Part) -> BranchPart:
    number, layer, alpha, operation, target = one
    change = change_of(V[number], layer, alpha=alpha, operation=read_operation(operation))
    return BranchPart(layer=layer, what=change, target=target)


def cell(*parts: Part, key: str = "cell") -> BranchCell:
    return combined(key, [part(one) for one in parts])


def plain_logits(loaded: LoadedModel, batch: PaddedBatch, parts: Sequence[Part]) -> torch.Tensor:
    """First-token logits by formulas written here, on hooks of torch."""
    ends = [start + n - 1 for start, n in zip(batch.starts, batch.lengths, strict=True)]
    rows: dict[str, Any] = {"all": batch.attention_mask.bool(), "image": batch.input_ids == IMAGE_ID}
    rows["last"] = torch.zeros_like(rows["all"])
    rows["last"][range(len(ends)), ends] = True

    def hook(number: int, layer: int, alpha: float, text: str, target: str) -> Any:
        v = torch.from_numpy(V[number].at(layer))
        u = v / v.norm()

        def steer(module: Any, args: Any, out: Any) -> Any:
            h = (out[0] if isinstance(out, tuple) else out).float()
            c = (h @ u)[..., None]
            to = 2.0 if text.startswith("clamp") else 0.0
            moved = h + alpha * v if text == "add" else h + alpha * (to - c) * u
            moved = torch.where(rows[target][:, -h.shape[1] :, None], moved, h)
            return (moved, *out[1:]) if isinstance(out, tuple) else moved

        return steer

    blocks = parts_of(loaded).blocks
    handles = [blocks[one[1]].register_forward_hook(hook(*one)) for one in parts]
    columns = sorted(set(ends))
    keep: Any = 1 if columns == [batch.input_ids.shape[1] - 1] else torch.tensor(columns)
    with torch.no_grad():
        logits = loaded.model(**model_inputs(loaded, batch), logits_to_keep=keep).logits
    for handle in handles:
        handle.remove()
    return logits[torch.arange(len(ends)), [columns.index(c) for c in ends]].float()


@pytest.mark.parametrize(("family", "side"), [("llama", "left"), ("gemma4_text", "left"), ("llava", "right")])
def test_a_cell_of_several_is_a_forward_with_as_many_hooks(family: str, side: str) -> None:
    loaded, batch = small_model(family), padded_batch(family, side=side)
    some = [(*one[:4], "image" if one[4] == "all" and family in IMAGE else one[4]) for one in FOUR]
    wanted = {f"{n}": some[:n] for n in (1, 2, 3, 4)} | {"pair": [some[3], some[1]]}
    cells = [cell(*parts, key=key) for key, parts in wanted.items()]
    alone = {a.key: a for a in branch(loaded, batch, cells, EXACT)}
    together = {a.key: a for a in branch(loaded, batch, cells, FIRST)}
    full = {a.key: a for a in recompute(loaded, batch, cells, EXACT)}
    for key, parts in wanted.items():
        expected = plain_logits(loaded, batch, parts)
        scale = expected.abs().amax(1, keepdim=True)
        for found in (alone, together, full):
            assert ((found[key].logits_bv - expected).abs() <= ROUNDING[torch.float32] * scale).all(), key
        assert torch.equal(alone[key].logits_bv, full[key].logits_bv), key
    unsteered = plain_logits(loaded, batch, [])
    differ = [float((alone[key].logits_bv - unsteered).abs().max()) for key in wanted]
    assert min(differ) > 0.05
    assert float((alone["4"].logits_bv - alone["3"].logits_bv).abs().max()) > 1e-3 or family in IMAGE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_live_contexts_branch_full_and_replay_agree_to_the_bit_and_decode_alike(dtype: torch.dtype) -> None:
    loaded, batch = small_model("llama", dtype), padded_batch("llama", dtype=dtype)
    cells = [cell(*FOUR), cell(*FOUR[:2], key="two"), cell(FOUR[0], key="one")]
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    with ExitStack() as stack, torch.inference_mode():
        for number, layer, alpha, operation, target in FOUR:
            stack.enter_context(
                steercache.steer(loaded, V[number], layer=layer, alpha=alpha, operation=operation, target=target)
            )
        expected = loaded.model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        del inputs["position_ids"]
        said = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=2)
    rows = stored(loaded, batch)
    for way in (
        branch(loaded, batch, cells, EXACT),
        recompute(loaded, batch, cells, EXACT),
        replay(loaded, batch, cells, stored=rows, options=EXACT),
    ):
        assert torch.equal({a.key: a for a in way}["cell"].logits_bv, expected)
    written = [tuple(takewhile(lambda token: token != 2, row)) for row in said[:, batch.input_ids.shape[1] :].tolist()]
    decoded = {
        a.key: a
        for a in branch(loaded, batch, cells, BranchOptions(max_new_tokens=5, ends=frozenset({2}), same_batch=True))
    }
    assert list(decoded["cell"].tokens) == written
    stacked = {a.key: a for a in replay(loaded, batch, cells, stored=rows, options=FIRST)}
    scale = expected.abs().amax(1, keepdim=True)
    assert ((stacked["cell"].logits_bv - expected).abs() <= ROUNDING[dtype] * scale).all()


def test_parts_without_strength_are_not_there_and_a_single_part_is_the_plain_cell() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    nothing = cell(*[(*one[:2], 0.0, *one[3:]) for one in FOUR])
    plain = BranchCell(key="", layer=1, delta_d=np.zeros(32, np.float32))
    found = {a.key: a for a in branch(loaded, batch, [nothing, plain], EXACT)}
    assert torch.equal(found["cell"].logits_bv, found[""].logits_bv)
    (in_full,) = recompute(loaded, batch, [nothing], EXACT)
    assert torch.equal(in_full.logits_bv, plain_logits(loaded, batch, []))

    one = part(FOUR[1])
    alone = BranchCell(key="cell", layer=0, delta_d=one.what.delta_d, target="last", change=one.what)
    for made in (cell(FOUR[1]), cell((0, 2, 0.0, "add", "all"), FOUR[1])):
        assert (made.layer, made.target, made.kind, made.rest, made.reads) == (0, "last", alone.kind, (), alone.reads)
        (got,), (wanted,) = (list(branch(loaded, batch, [c], FIRST)) for c in (made, alone))
        assert torch.equal(got.logits_bv, wanted.logits_bv)


def test_order_matters_at_one_layer_where_operations_do_not_commute_and_nowhere_else() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")

    def logits(*parts: Part) -> torch.Tensor:
        (found,) = branch(loaded, batch, [cell(*parts)], EXACT)
        return found.logits_bv

    add, out = (0, 1, 2.0, "add", "all"), (1, 1, 1.0, "project_out", "all")
    assert float((logits(add, out) - logits(out, add)).abs().max()) > 1e-2
    for parts in ((add, out), (out, add)):
        np.testing.assert_allclose(logits(*parts), plain_logits(loaded, batch, parts), rtol=1e-4, atol=1e-4)
    other = (2, 1, 1.0, "add", "last")
    np.testing.assert_allclose(logits(add, other), logits(other, add), rtol=1e-5, atol=1e-5)
    above = (1, 2, 1.0, "project_out", "all")
    assert torch.equal(logits(add, above), logits(above, add))


def test_sql_targets_of_parts_are_looked_up_on_the_unsteered_pass_and_reported_each() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    first, none = read_token_clause("position < 3"), read_token_clause("position > 100")
    parts = [
        BranchPart(layer=2, what=part(FOUR[0]).what, target=none),
        BranchPart(layer=1, what=part(FOUR[0]).what, target=first),
    ]
    (found,) = branch(loaded, batch, [combined("x", parts)], EXACT)
    (alone,) = branch(loaded, batch, [combined("y", parts[1:])], EXACT)
    assert torch.equal(found.logits_bv, alone.logits_bv)
    assert found.missed_b is None
    assert {text: int((mask != 0).sum()) for text, mask in found.selected.items()} == {str(first): 9, str(none): 0}
    (nowhere,) = branch(
        loaded, batch, [combined("z", [parts[0], BranchPart(layer=1, what=parts[0].what, target=none)])]
    )
    assert nowhere.missed_b is not None
    assert bool(nowhere.missed_b.all())


def test_what_cannot_be_is_refused() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    wide = SteeringVector(
        name="wide", method="m", concept=None, site="resid_post", layers=(2,), values=np.ones((1, 8), np.float32)
    )
    bad = BranchPart(layer=2, what=change_of(wide, 2, alpha=1.0))
    beyond = BranchPart(layer=N_LAYERS, what=part(FOUR[0]).what)
    for rest, message in ((bad, "shape"), (beyond, "no layer 4")):
        made = combined("x", [part(FOUR[1]), rest])
        for way in (branch(loaded, batch, [made], FIRST), recompute(loaded, batch, [made], FIRST)):
            with pytest.raises(UsageError, match=message):
                list(way)
    huge = (0, 2, 1e20, "add", "all")
    for answers in (
        branch(loaded, batch, [cell(FOUR[1], huge)], FIRST),
        recompute(loaded, batch, [cell(FOUR[1], huge)], FIRST),
    ):
        assert not bool(next(iter(answers)).finite_b.any())


def test_damage_leaves_the_first_token_of_texts_alone_in_every_part() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    inputs = EffectInputs(
        batches=lambda: [batch], sample_ids=(*"abc",), texts=(*"abc",), prompt_id="p", skip_first=True
    )
    found = damage_of(loaded, [cell(*FOUR[:3])], inputs)["cell"]
    rows = batch.attention_mask.bool()
    rows[range(3), list(batch.starts)] = False

    with ExitStack() as stack, torch.inference_mode():
        given = model_inputs(loaded, batch)
        plain = loaded.model(**given).logits[:, -1]
        for number, layer, alpha, operation, target in FOUR[:3]:
            mask = rows if target == "all" else target
            stack.enter_context(
                steercache.steer(loaded, V[number], layer=layer, alpha=alpha, operation=operation, target=mask)
            )
        nats = kl_nats(plain, loaded.model(**given).logits[:, -1])
    assert found.mean_nats == pytest.approx(float(nats.mean()), rel=1e-4)
