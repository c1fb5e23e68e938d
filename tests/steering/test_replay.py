"""Replay from stored rows against the full steered forward, and what it refuses."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from steercache.answers.ways import ExecutionPlan
from steercache.core.errors import UsageError
from steercache.models.spec import LoadedModel
from steercache.runs.shard import as_numpy
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import ROUNDING, BranchCell
from steercache.steering.replay import replay
from steercache.steering.stored_rows import GatheredBatch, RunFacts
from steercache.trace.batches import PaddedBatch
from steercache.trace.capture import capture
from steercache.trace.numerics import numerics_of
from tests.kernels import without_onednn
from tests.steering.small import (
    DEEPSTACK,
    EXPERTS,
    FAMILIES,
    N_LAYERS,
    PICTURES_IN_BLOCKS,
    directions,
    padded_batch,
    small_model,
)
from tests.steering.test_branch import cells_for, full_logits

FIRST = BranchOptions(max_new_tokens=1)
EXACT = BranchOptions(max_new_tokens=1, same_batch=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsInMemory:
    """A RowSource over what `capture` handed out, in an order of its own."""

    layers_ld: list[npt.NDArray[Any]] = field(repr=False)
    run_id: str = "r"
    generation: str = "g0001"
    lossy: bool = False

    def layers(self, site: str) -> tuple[int, ...]:
        return tuple(range(len(self.layers_ld)))

    def gather(self, site: str, layer: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        assert site == "resid_post"
        return self.layers_ld[layer][rows]


def facts_of(loaded: LoadedModel, **changes: Any) -> RunFacts:
    spec = loaded.spec
    facts = RunFacts(
        name="run",
        fingerprint=spec.fingerprint,
        tokenizer_digest=spec.tokenizer_digest,
        dtype=spec.dtype,
        stored_dtype=spec.dtype,
        replayable=True,
        lossy=False,
        numerics=numerics_of(loaded),
    )
    return replace(facts, **changes)


def stored(loaded: LoadedModel, batch: PaddedBatch, **changes: Any) -> GatheredBatch:
    """The batch as a build keeps it: captured with nnsight, real tokens only, rows shuffled over the array."""
    states = capture(loaded, batch, sites=["resid_post"], layers=range(N_LAYERS))["resid_post"]
    spans = [slice(start, start + n) for start, n in zip(batch.starts, batch.lengths, strict=True)]
    order = np.random.default_rng(1).permutation(sum(batch.lengths))
    place = np.argsort(order)
    flat = [np.concatenate([as_numpy(h)[i, span] for i, span in enumerate(spans)])[order] for h in states]
    ends = np.cumsum(batch.lengths)
    return GatheredBatch(
        facts=facts_of(loaded, **changes),
        padded_len=int(batch.input_ids.shape[1]),
        as_recorded=True,
        sample_ids=batch.sample_ids(),
        token_ids=[batch.input_ids[i, span].numpy().astype(np.int32) for i, span in enumerate(spans)],
        rows=[place[end - n : end].astype(np.int64) for end, n in zip(ends, batch.lengths, strict=True)],
        source=RowsInMemory(layers_ld=flat),
    )


def without_pixels(batch: PaddedBatch) -> PaddedBatch:
    return replace(batch, pixels={n: x for n, x in batch.pixels.items() if not n.startswith("pixel_values")})


@pytest.mark.parametrize(("side", "dtype"), [("left", torch.float32), ("right", torch.bfloat16)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_replay_is_the_full_steered_forward_and_never_sees_a_pixel(
    family: str, side: str, dtype: torch.dtype
) -> None:
    lengths = (12, 12, 12) if family in EXPERTS else (9, 12, 7)
    loaded, batch = small_model(family, dtype), padded_batch(family, side=side, dtype=dtype, lengths=lengths)
    blind = without_pixels(batch)
    if not ExecutionPlan(mode="replay").needs_pixels(loaded.family):  # then answers are computed without any of these
        blind = replace(batch, pixels={})
    rows, cells = stored(loaded, batch), cells_for(family)
    n_first = (DEEPSTACK | PICTURES_IN_BLOCKS).get(
        family, 0
    )  # rows of these layers lack what is made of pictures above
    parts = [([c for c in cells if c.layer < n_first], batch), ([c for c in cells if c.layer >= n_first], blind)]
    alone = {a.key: a for some, b in parts for a in replay(loaded, b, some, stored=rows, options=EXACT)}
    together = {a.key: a for some, b in parts for a in replay(loaded, b, some, stored=rows, options=FIRST)}
    assert len(alone) == len(together) == len(cells)
    for cell in cells[:: 1 if dtype == torch.float32 else 3]:
        expected = full_logits(loaded, batch, cell)
        assert alone[cell.key].mode == ("branch" if family.startswith("gemma3n") else "replay")  # rows hold one stream
        assert torch.equal(alone[cell.key].logits_bv, expected), cell.key
        worst = (together[cell.key].logits_bv - expected).abs().amax(1)
        assert (worst <= ROUNDING[dtype] * expected.abs().amax(1)).all(), cell.key


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_compute_padding_too_which_is_not_stored_so_padded_batches_agree_within_rounding(family: str) -> None:
    loaded, batch = small_model(family), padded_batch(family)
    cells = cells_for(family)[-4:]
    for answer, cell in zip(
        replay(loaded, batch, cells, stored=stored(loaded, batch), options=EXACT), cells, strict=True
    ):
        expected = full_logits(loaded, batch, cell)
        assert (answer.logits_bv - expected).abs().max() <= ROUNDING[torch.float32] * expected.abs().max()


def test_pictures_that_blocks_receive_something_of_must_be_there() -> None:
    loaded, batch = small_model("gemma4"), padded_batch("gemma4")
    with pytest.raises(UsageError, match="hands an input that is made of them to every block"):
        list(replay(loaded, without_pixels(batch), cells_for("gemma4"), stored=stored(loaded, batch)))


def test_keys_that_upper_blocks_share_are_made_again_from_rows_below_the_block_that_makes_them() -> None:
    """Two blocks that share, so that the keys which they read are made by the first block: its input is not on disk."""
    changes = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2}
    loaded, cell = small_model("gemma4_text", **changes), BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    for lengths in ((9, 12, 7), (12, 12)):  # without padding blocks get no mask
        batch = padded_batch("gemma4_text", lengths=lengths)
        with pytest.raises(UsageError, match="made by block 0"):
            list(replay(loaded, batch, [cell], stored=stored(loaded, batch)))
        for layer in range(N_LAYERS):
            (answer,) = branch(loaded, batch, [replace(cell, layer=layer)], EXACT)
            assert answer.mode == "branch"
            assert torch.equal(answer.logits_bv, full_logits(loaded, batch, replace(cell, layer=layer)))


def test_blocks_below_the_layer_and_the_vision_tower_never_run() -> None:
    loaded, batch = small_model("idefics3"), padded_batch("idefics3")
    rows, ran = stored(loaded, batch), []
    watched = {f"block {i}": block.mlp for i, block in enumerate(loaded.model.model.text_model.layers)}
    watched |= {"vision": loaded.model.model.vision_model, "connector": loaded.model.model.connector}
    for name, module in watched.items():
        module.register_forward_hook(lambda m, a, out, name=name: ran.append(name))
    cells = [BranchCell(key="x", layer=1, delta_d=directions(1)[0], target="image")]
    list(replay(loaded, batch, cells, stored=rows))
    assert ran == ["block 2", "block 3"]


def test_a_layer_that_gets_features_of_the_pictures_runs_the_tower_and_is_refused_without_pixels() -> None:
    loaded, batch = small_model("qwen3_vl"), padded_batch("qwen3_vl")
    rows, ran = stored(loaded, batch), []
    watched = {f"block {i}": block.mlp for i, block in enumerate(loaded.model.model.language_model.layers)}
    for name, module in (watched | {"tower": loaded.model.model.visual}).items():
        module.register_forward_hook(lambda m, a, out, name=name: ran.append(name))
    early, late = (BranchCell(key="x", layer=layer, delta_d=directions(1)[0], target="last") for layer in (1, 2))
    list(replay(loaded, batch, [early], stored=rows))
    assert ran == ["tower", "block 2", "block 3"]
    ran.clear()
    list(replay(loaded, batch, [late], stored=rows))
    assert ran == ["block 3"]
    blind = replace(batch, pixels={"image_grid_thw": batch.pixels["image_grid_thw"]})
    list(replay(loaded, blind, [late], stored=rows))
    with pytest.raises(UsageError, match=r"from layer 1 needs the pixels .* its first 2 blocks") as caught:
        list(replay(loaded, blind, [late, early], stored=rows))
    assert "layers from 2 on" in str(caught.value)
    words = padded_batch("llama")  # no picture, no features
    list(replay(loaded, words, [early], stored=stored(loaded, words)))


def test_several_text_cells_share_one_pass_for_the_keys_and_values_of_the_picture() -> None:
    loaded, batch = small_model("idefics3"), padded_batch("idefics3", lengths=(12, 12))
    rows, seen = stored(loaded, batch), []
    mlp = loaded.model.model.text_model.layers[3].mlp
    mlp.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape[:2])))
    cells = [BranchCell(key=str(i), layer=1, delta_d=d, target="text") for i, d in enumerate(directions(6))]
    answers = {a.key: a for a in replay(loaded, batch, cells, stored=rows)}
    assert seen == [(2, 12), (12, 7)]
    expected = full_logits(loaded, batch, cells[4])
    torch.testing.assert_close(answers["4"].logits_bv, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replayable": False}, "did not keep every row"),
        ({"lossy": True}, "not bit for bit"),
        ({"stored_dtype": "bfloat16"}, "not bit for bit"),
        ({"fingerprint": "0" * 64}, "stale: it has other weights"),
        ({"tokenizer_digest": "0" * 64}, "stale: it has other tokenizer"),
        ({"dtype": "bfloat16", "stored_dtype": "bfloat16"}, "stale: it has other compute dtype"),
        ({"fingerprint": "0", "tokenizer_digest": "0"}, "other weights and tokenizer"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    with pytest.raises(UsageError, match=words):
        list(replay(loaded, batch, [cell], stored=stored(loaded, batch, **changes)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ids: ids[:, :-1], "padded to 12, the batch has 3 padded to 11"),
        (lambda ids: ids.roll(1, 0), "sample 0 of the batch is another prompt"),
        (lambda ids: ids.index_fill(1, torch.tensor([11]), 33), "is another prompt"),
    ],
)
def test_other_prompts_are_refused(change: Callable[[torch.Tensor], torch.Tensor], words: str) -> None:
    loaded, batch = small_model("llama"), padded_batch("llama", lengths=(12, 12, 12))
    cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    other = replace(batch, input_ids=change(batch.input_ids))
    with pytest.raises(UsageError, match=words):
        list(replay(loaded, other, [cell], stored=stored(loaded, batch)))


NUMERICS = {
    "attention": "another",
    "device": "cuda",
    "threads": 64,
    "torch": "1.0",
    "isa": "none",
    "padding_side": "left",
}


@pytest.mark.parametrize("name", NUMERICS)
def test_rows_of_other_numerics_are_refused(name: str) -> None:
    loaded, batch = small_model("llama"), padded_batch("llama", side="right")
    cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    other = {**numerics_of(loaded), name: NUMERICS[name]}
    with pytest.raises(UsageError, match=NUMERICS[name] if name == "padding_side" else f"{name} was .*, is "):
        list(replay(loaded, batch, [cell], stored=stored(loaded, batch, numerics=other)))
    forced = {**numerics_of(loaded), "forced_over": other}
    if name != "padding_side":
        with pytest.raises(UsageError, match=f"{name} was"):
            list(replay(loaded, batch, [cell], stored=stored(loaded, batch, numerics=forced)))


def test_rows_of_other_kernels_are_refused_whatever_they_are_called() -> None:
    loaded, batch = small_model("llama", torch.bfloat16), padded_batch("llama", dtype=torch.bfloat16)
    cell, rows = BranchCell(key="x", layer=1, delta_d=directions(1)[0]), stored(loaded, batch)
    with without_onednn(), pytest.raises(UsageError, match=r"other bits in .*bfloat16 products"):
        list(replay(loaded, batch, [cell], stored=rows))
    assert list(replay(loaded, batch, [cell], stored=rows))


def test_rows_in_new_batches_do_not_ask_for_the_threads_and_the_padding_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "os.cpu_count", lambda: 4
    )  # kernels are measured on as many threads as the run had, if there are
    loaded, batch = small_model("llama"), padded_batch("llama", side="right")
    cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    three = numerics_of(loaded, n_threads=3) | {"padding_side": "left"}
    rows = stored(loaded, batch, numerics=three)
    assert list(replay(loaded, batch, [cell], stored=replace(rows, as_recorded=False)))
    with pytest.raises(UsageError, match="threads was 3"):
        list(replay(loaded, batch, [cell], stored=rows))
    unknown = {name: value for name, value in three.items() if name in ("attention", "device")}  # an older run.json
    assert list(replay(loaded, batch, [cell], stored=replace(rows, facts=facts_of(loaded, numerics=unknown))))


@pytest.mark.parametrize("family", ["paligemma", "gemma3"])
def test_other_token_types_are_refused(family: str) -> None:
    loaded, batch = small_model(family), padded_batch(family)
    cell, rows = BranchCell(key="x", layer=1, delta_d=directions(1)[0]), stored(loaded, batch)
    types = batch.extra["token_type_ids"].clone()
    types[-1, -1] = 1 - types[-1, -1]
    with pytest.raises(UsageError, match="sample 2 of the batch has other pictures or token types"):
        list(replay(loaded, replace(batch, extra={"token_type_ids": types}), [cell], stored=rows))


def test_other_pictures_are_refused_and_those_that_nobody_names() -> None:
    loaded, batch = small_model("llava"), padded_batch("llava")
    cell, rows = BranchCell(key="x", layer=1, delta_d=directions(1)[0]), stored(loaded, batch)
    assert batch.image_digests is not None
    first, *others = batch.image_digests
    for digests in ((("e" * 64,), *others), ((first[0], first[0]), *others), ((), *others)):
        with pytest.raises(UsageError, match="sample 0 of the batch has other pictures"):
            list(replay(loaded, replace(batch, image_digests=digests), [cell], stored=rows))
    with pytest.raises(UsageError, match="the pictures of the batch are unknown"):
        list(replay(loaded, replace(batch, image_digests=None), [cell], stored=rows))


def test_more_than_first_tokens_are_not_promised() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    with pytest.raises(UsageError, match="first tokens only"):
        list(replay(loaded, batch, [cell], stored=stored(loaded, batch), options=BranchOptions(max_new_tokens=2)))


def test_a_model_with_an_obstacle_is_branched_in_full_instead() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    rows = stored(loaded, batch)
    loaded.model.register_forward_hook(lambda m, a, out: out.__setitem__("logits", out.logits * 2))
    cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    (answer,) = replay(loaded, batch, [cell], stored=rows)
    assert answer.mode == "full"
    assert torch.equal(answer.logits_bv, full_logits(loaded, batch, cell))


def test_blocks_are_themselves_again_after_a_replay() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    rows = stored(loaded, batch)
    cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0])
    expected = full_logits(loaded, batch, cell)
    before = [vars(block).copy() for block in loaded.model.model.layers]
    list(replay(loaded, batch, [cell], stored=rows))
    assert [vars(block) for block in loaded.model.model.layers] == before
    assert torch.equal(full_logits(loaded, batch, cell), expected)
