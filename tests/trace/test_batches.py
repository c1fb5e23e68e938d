"""The batch plan: every sample once, within the budget, the same for the same lengths."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steercache.core.examples import EncodedSample
from steercache.models.rope import any_length
from steercache.trace.batches import pad_batch, plan_batches

lengths_and_budget = st.tuples(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1000))


@given(drawn=lengths_and_budget)
def test_every_sample_is_in_exactly_one_batch_within_the_budget(drawn: tuple[list[int], int]) -> None:
    lengths, budget = drawn
    batches = plan_batches(lengths, tokens_per_batch=budget, rule=any_length)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1


@given(drawn=lengths_and_budget)
def test_no_batch_could_take_in_the_next_sample(drawn: tuple[list[int], int]) -> None:
    lengths, budget = drawn
    batches = plan_batches(lengths, tokens_per_batch=budget, rule=any_length)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(lengths[i] for i in batch) > budget
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(lengths, reverse=True)


@given(drawn=lengths_and_budget, seed=st.integers(0, 10))
def test_the_plan_pads_no_more_than_an_unsorted_one(drawn: tuple[list[int], int], seed: int) -> None:
    lengths, budget = drawn
    shuffled = random.Random(seed).sample(lengths, len(lengths))

    def padded(values: list[int]) -> list[tuple[int, int]]:
        plan = plan_batches(values, tokens_per_batch=budget, rule=any_length)
        return [(len(batch), max(values[i] for i in batch)) for batch in plan]

    assert padded(lengths) == padded(shuffled)  # shapes depend on the lengths alone, not on their order
    again = plan_batches(list(lengths), tokens_per_batch=budget, rule=any_length)
    assert plan_batches(lengths, tokens_per_batch=budget, rule=any_length) == again


def test_equal_lengths_keep_their_order() -> None:
    assert plan_batches([5] * 7, tokens_per_batch=15, rule=any_length) == ((0, 1, 2), (3, 4, 5), (6,))


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens_per_batch"):
        plan_batches([1], tokens_per_batch=0, rule=any_length)


def sample(ids: list[int], **extra: list[int]) -> EncodedSample:
    none, off = np.full(len(ids), -1, dtype=np.int32), np.zeros(len(ids), dtype=bool)
    return EncodedSample(
        text="",
        input_ids=np.array(ids, dtype=np.int32),
        char_start=none,
        char_end=none,
        kind=np.zeros(len(ids), dtype=np.int8),
        is_anchor=off,
        is_control=off,
        tile=none,
        patch_row=none,
        patch_col=none,
        extra={name: np.array(values, dtype=np.int32) for name, values in extra.items()},
    )


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), side=st.sampled_from(["left", "right"]))
def test_padding_is_masked_and_the_samples_lie_where_starts_says(lengths: list[int], side: str) -> None:
    samples = [sample(list(range(10, 10 + n))) for n in lengths]
    batch = pad_batch(samples, padding_side=side, pad_id=7)  # type: ignore[arg-type]
    assert batch.lengths == tuple(lengths)
    for row, (start, n) in enumerate(zip(batch.starts, lengths, strict=True)):
        columns = torch.arange(max(lengths))
        inside = (columns >= start) & (columns < start + n)
        assert batch.input_ids[row, inside].tolist() == list(range(10, 10 + n))
        assert (batch.input_ids[row, ~inside] == 7).all()
        assert torch.equal(batch.attention_mask[row].bool(), inside)
        if batch.position_ids is not None:
            assert batch.position_ids[row, inside].tolist() == list(range(n))
    assert (batch.position_ids is not None) == (side == "left" and len(set(lengths)) > 1)


def test_extras_are_padded_with_zeros_and_filled_where_a_sample_has_none() -> None:
    batch = pad_batch([sample([1, 2, 3], token_type_ids=[1, 1, 2]), sample([4])], padding_side="left", pad_id=0)
    assert batch.extra["token_type_ids"].tolist() == [[1, 1, 2], [0, 0, 0]]
