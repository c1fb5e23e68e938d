"""Pictures in a model of linear and full attention: its state cannot be branched, so every cell is computed in full."""

import pytest
import torch

from steercache.steering.branch import BranchOptions, branch
from steercache.steering.recompute import obstacle_of, recompute
from steercache.steering.replay import replay
from tests.models.derived import FULL
from tests.steering.small import HYBRID, padded_batch, small_model
from tests.steering.test_branch import N_NEW, cells_for, full_logits, generated
from tests.steering.test_replay import stored


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", HYBRID)
def test_every_cell_is_the_steered_model_and_its_answer_that_of_generate(family: str, dtype: torch.dtype) -> None:
    loaded, batch = small_model(family, dtype), padded_batch(family, dtype=dtype)
    options = BranchOptions(max_new_tokens=N_NEW, ends=frozenset({2}))
    assert str(obstacle_of(loaded, batch)).startswith(FULL[family])
    cells = cells_for(family)[::3]
    assert {cell.target for cell in cells} >= {"image", "text", "both"}
    answers = {one.key: one for one in branch(loaded, batch, cells, options)}
    for cell in cells:
        got = answers[cell.key]
        assert got.mode == "full"
        assert str(got.reason).startswith(FULL[family])
        assert torch.equal(got.logits_bv, full_logits(loaded, batch, cell))
        for i, tokens in enumerate(generated(loaded, batch, cell)):
            assert tuple(got.tokens[i]) == tokens or bool(got.near_tie_b[i])
    again = {one.key: one for one in recompute(loaded, batch, cells[:2], options)}
    assert all(torch.equal(one.logits_bv, answers[key].logits_bv) for key, one in again.items())


@pytest.mark.parametrize("family", HYBRID)
def test_a_replay_says_that_it_is_computed_in_full(family: str) -> None:
    loaded, batch = small_model(family), padded_batch(family, side="right")
    (cell,) = [cell for cell in cells_for(family) if cell.key == "image@2:0"]
    (answer,) = replay(loaded, batch, [cell], stored=stored(loaded, batch))
    assert (answer.mode, str(answer.reason).startswith(FULL[family])) == ("full", True)
    assert torch.equal(answer.logits_bv, full_logits(loaded, batch, cell))
