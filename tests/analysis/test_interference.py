"""Several vectors at once, against plain hooks and sums written here."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import WhitespaceSplit

import steercache
from steercache.analysis.interference import MOST, Interference, Steering, interference
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from steercache.steering.effect_inputs import prompt_inputs
from steercache.steering.prefill import read_prompts
from tests.steering.small import directions, small_model

PROMPTS = ("w4 w5 w6 w7", "w9 w8 w7 w30 w31 w20")


def members() -> list[Steering]:
    """Three vectors at two layers, on other tokens each."""
    rows = directions(3)
    vectors = [
        SteeringVector(
            name=f"v{i}", method="m", concept=None, site="resid_post", layers=(0, 1), values=np.stack([row] * 2)
        )
        for i, row in enumerate(rows)
    ]
    return [
        Steering(vector=vectors[0], layer=0, alpha=1.5),
        Steering(vector=vectors[1], layer=1, alpha=-2.0, target="last"),
        Steering(vector=vectors[2], layer=0, alpha=0.7, operation="project_out"),
    ]


@pytest.fixture(scope="module")
def loaded() -> Any:
    made = small_model("llama", torch.float32)
    made.tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    return made


@torch.no_grad()
def logits_by_hand(loaded: Any, chosen: list[Steering]) -> torch.Tensor:
    """Hooks of our own on the blocks; the first token is left alone, as in every bare text."""
    (batch,) = prompt_inputs(loaded, PROMPTS).batches()
    prompts = read_prompts(loaded, batch)
    real, first = prompts.tokens.real_bt, prompts.tokens.first_bt
    handles = []
    for one in chosen:
        v = torch.from_numpy(one.vector.at(one.layer)).double()
        mask = real & ~first
        if one.target == "last":
            mask = torch.zeros_like(real)
            mask[:, -1] = True

        def hook(module: Any, args: Any, out: Any, v: Any = v, one: Steering = one, mask: Any = mask) -> Any:
            h = out.double()
            u = v / v.norm()
            moved = h - one.alpha * (h @ u)[..., None] * u if one.operation == "project_out" else h + one.alpha * v
            return torch.where(mask[..., None], moved, h).to(out.dtype)

        handles.append(loaded.model.model.layers[one.layer].register_forward_hook(hook))
    out = loaded.model(**prompts.inputs).logits[:, -1].double()
    for handle in handles:
        handle.remove()
    return out


def kl(a: torch.Tensor, b: torch.Tensor) -> float:
    p, q = a.softmax(-1), b.log_softmax(-1)
    return float((p * (p.log() - q)).sum(-1).mean())


def test_every_combination_is_that_of_plain_hooks_and_its_prediction_the_sum_of_single_changes(loaded: Any) -> None:
    some = members()
    found = interference(loaded, some, prompts=PROMPTS)
    groups = [set(c) for n in (1, 2, 3) for c in combinations(range(3), n)]
    assert [row.members for row in found.rows] == [tuple(some[i].label for i in sorted(g)) for g in groups]
    plain = logits_by_hand(loaded, [])
    alone = [logits_by_hand(loaded, [one]) - plain for one in some]
    for row, group in zip(found.rows, groups, strict=True):
        measured = logits_by_hand(loaded, [some[i] for i in sorted(group)])
        predicted = plain + sum(alone[i] for i in group)
        assert row.nats == pytest.approx(kl(plain, measured), rel=1e-3, abs=1e-6)
        assert row.predicted_nats == pytest.approx(kl(plain, predicted), rel=1e-3, abs=1e-6)
        assert row.apart_nats == pytest.approx(kl(predicted, measured), rel=1e-2, abs=1e-6)
        if len(group) == 1:
            assert row.apart_nats == pytest.approx(0, abs=1e-9)
            assert row.cosine == pytest.approx(1)
    assert found.rows[-1].apart_nats > 1e-4, "these interfere"


def test_two_halves_of_one_vector_are_the_whole_and_a_member_of_strength_zero_changes_nothing(loaded: Any) -> None:
    one = members()[0]
    halves = [
        replace(one, alpha=0.75, name="a"),
        replace(one, alpha=0.75, name="b"),
        replace(one, alpha=1.5, name="whole"),
    ]
    rows = {row.members: row for row in interference(loaded, halves, prompts=PROMPTS).rows}
    assert rows["a", "b"].nats == pytest.approx(rows["whole",].nats, rel=1e-4)
    still = [one, replace(members()[1], alpha=0.0)]
    alone, nothing, both = interference(loaded, still, prompts=PROMPTS).rows
    assert (both.nats, both.apart_nats) == (pytest.approx(alone.nats), pytest.approx(0, abs=1e-9))
    assert nothing.nats == 0


def test_what_cannot_be_compared_is_refused(loaded: Any) -> None:
    one, two, _ = members()
    with pytest.raises(UsageError, match="1 members"):
        interference(loaded, [one], prompts=PROMPTS)
    with pytest.raises(UsageError, match=f"{MOST + 1} members"):
        interference(loaded, [replace(one, name=str(i)) for i in range(MOST + 1)], prompts=PROMPTS)
    with pytest.raises(UsageError, match="the same name"):
        interference(loaded, [one, one], prompts=PROMPTS)
    with pytest.raises(UsageError, match="overflows"):
        interference(loaded, [replace(one, alpha=1e39), two], prompts=PROMPTS)


def test_the_table_is_records_and_html(loaded: Any) -> None:
    found: Interference = steercache.interference(loaded, members(), prompts=PROMPTS)
    assert [record["n_members"] for record in found.records()] == [1, 1, 1, 2, 2, 2, 3]
    assert "v0@0 + v1@1" in found._repr_html_()
