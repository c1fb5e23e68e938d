"""A condition of conditional steering as a target: prompts that meet it are steered, and no others."""

import numpy as np
import torch

import steercache
from steercache.fit.condition import Condition
from tests.steering.tiny import tiny_model, vector


@torch.no_grad()
def test_the_condition_is_a_target_that_steers_prompts_that_meet_it_and_no_others() -> None:
    model, v = tiny_model("llama"), vector(1, 2, scale=2.0)
    ids = torch.randint(3, 90, (6, 5), generator=torch.Generator().manual_seed(1))
    states = model(ids, output_hidden_states=True).hidden_states[2][:, -1]
    cosine = torch.nn.functional.cosine_similarity(states, torch.from_numpy(v.at(1))[None]).numpy()
    threshold = float(np.sort(cosine)[2:4].mean())
    condition = Condition(vector="v", layer=1, threshold=threshold, side="above", f1=1.0, similarity="cosine")
    plain = model(ids).logits
    mask = torch.ones_like(ids)
    with steercache.steer(model, v, layer=2, alpha=1.0, target=condition.target):
        found = model(input_ids=ids, attention_mask=mask).logits
    moved = (found - plain).abs().amax(dim=(1, 2)) > 1e-3
    assert moved.tolist() == (cosine > threshold).tolist()
    assert 0 < int(moved.sum()) < len(ids)
