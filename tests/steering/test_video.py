"""Videos in branches and replays: as pictures, features that the decoder adds between its blocks included."""

from dataclasses import replace

import pytest
import torch

from steercache.core.errors import UsageError
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import BranchCell
from steercache.steering.replay import replay
from steercache.trace.batches import PaddedBatch
from tests.steering.small import DEEPSTACK, IMAGE_ID, N_LAYERS, directions, padded_batch, small_model
from tests.steering.test_branch import full_logits
from tests.steering.test_replay import stored

EXACT = BranchOptions(max_new_tokens=1, same_batch=True)


def videos(side: str) -> PaddedBatch:
    """The pictures of `padded_batch` as videos of one frame each."""
    batch = padded_batch("qwen3_vl", side=side)
    renamed = {"pixel_values": "pixel_values_videos", "image_grid_thw": "video_grid_thw"}
    return replace(
        batch,
        input_ids=batch.input_ids.masked_fill(batch.input_ids == IMAGE_ID, IMAGE_ID + 1),
        extra={name: 2 * x for name, x in batch.extra.items()},
        pixels={renamed[name]: x for name, x in batch.pixels.items()},
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_branch_and_replay_are_the_full_steered_forward(side: str) -> None:
    loaded, batch = small_model("qwen3_vl"), videos(side)
    cells = [
        BranchCell(key=f"{target}@{layer}", layer=layer, delta_d=directions(1)[0], target=target)
        for target in ("video", "text", "both")
        for layer in range(N_LAYERS - 1)
    ]
    rows = stored(loaded, batch)
    branched = {one.key: one for one in branch(loaded, batch, cells, EXACT)}
    replayed = {one.key: one for one in replay(loaded, batch, cells, stored=rows, options=EXACT)}
    for cell in cells:
        expected = full_logits(loaded, batch, cell)
        assert (branched[cell.key].mode, replayed[cell.key].mode) == ("branch", "replay")
        assert torch.equal(branched[cell.key].logits_bv, expected), cell.key
        assert torch.equal(replayed[cell.key].logits_bv, expected), cell.key
    blind = replace(batch, pixels={"video_grid_thw": batch.pixels["video_grid_thw"]})
    early, late = (replace(cells[0], layer=layer) for layer in (DEEPSTACK["qwen3_vl"] - 1, DEEPSTACK["qwen3_vl"]))
    assert list(replay(loaded, blind, [late], stored=rows))
    with pytest.raises(UsageError, match="needs the pixels"):
        list(replay(loaded, blind, [early], stored=rows))


def test_the_targets_of_other_kinds_hit_nothing_here() -> None:
    loaded, batch = small_model("qwen3_vl"), videos("left")
    for target, words in (("image", "'image' selects no token"), ("audio", "this model has no audio tokens")):
        cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0], target=target)
        with pytest.raises(UsageError, match=words):
            list(branch(loaded, batch, [cell], EXACT))
