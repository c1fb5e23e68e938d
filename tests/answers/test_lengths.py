"""Decoding is estimated from the lengths that answers have: of earlier jobs, or of a few questions asked first."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steercache.answers.costs import predict_seconds
from steercache.answers.lengths import AnswerLengths, DecodedLengths, decoded_lengths, known_lengths
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import Session
from steercache.steering.cells import CellAnswers
from steercache.sweeps.evaluation import evaluate
from tests.answers.test_costs import ZERO, machine, work
from tests.sweeps.small_run import options
from tests.world import World

FREE: dict[str, Any] = {"max_new_tokens": 9, "split": "search", "prompting": "", "damage": False, "mode": "auto"}


def result(tokens: list[tuple[int, ...]], ended: list[bool]) -> CellAnswers:
    n, nothing = len(tokens), torch.zeros(len(tokens))
    return CellAnswers(
        key="k", mode="full", logits_bv=torch.zeros(n, 1), tokens=tuple(tokens), ended=tuple(ended), gap_b=nothing,
        near_tie_b=nothing.bool(), finite_b=nothing.bool(),
    )  # fmt: skip


def test_the_token_that_ends_an_answer_was_decoded_too_and_a_first_one_was_not() -> None:
    found = result([(5, 6, 7), (5,), (), (1, 2, 3, 4)], [True, True, True, False])
    assert decoded_lengths(found) == [3, 1, 0, 3]


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=6), min_size=1, max_size=6))
def test_the_means_are_over_groups_and_over_answers(groups: list[list[int]]) -> None:
    decoded = DecodedLengths()
    for group in groups:
        decoded.add("text", group)
    found = decoded.mean_of("text")
    assert found is not None
    every = [x for group in groups for x in group]
    assert found.n_steps == pytest.approx(sum(map(max, groups)) / len(groups))
    assert found.n_more == pytest.approx(sum(every) / len(every))
    assert found.n_more <= max(every)
    assert decoded.mean_of("choice") is None


def test_known_lengths_count_steps_of_a_batch_and_tokens_of_its_answers() -> None:
    import dataclasses

    asked = work((0, 3), n_more=19)
    (batch,) = asked.batches
    short = dataclasses.replace(batch, lengths=AnswerLengths(n_steps=6.0, n_more=2.5))
    asked = dataclasses.replace(asked, batches=(short,))
    by_step = predict_seconds(machine(dataclasses.replace(ZERO, step_s=1.0, block_token_s=0)), asked)
    by_row = predict_seconds(machine(dataclasses.replace(ZERO, step_row_s=1.0, block_token_s=0)), asked)
    assert by_step["full"] == pytest.approx(3 * 6.0)
    assert by_step["branch"] == pytest.approx(6.0)
    assert by_row["full"] == by_row["branch"] == pytest.approx(3 * 4 * 2.5)


def test_a_first_job_finds_out_how_long_its_answers_are_and_keeps_what_it_decoded(
    own_session: Session, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steercache.cache.calibration.LEAST_S", 0.0)
    seen: list[dict[str, AnswerLengths]] = []
    real = known_lengths
    monkeypatch.setattr("steercache.answers.lengths.known_lengths", lambda *a: seen.append(real(*a)) or seen[-1])
    bench = open_benchmark("scenes", task="Attribute", form="word", limit=60)
    asked = options(n=8, controls=3, alphas=(3.0, 9.0), **FREE)
    vector = own_session.vector("counting")
    evaluate(own_session, world.loaded, bench, vectors=[vector], options=asked)
    assert seen[0] == {}
    (kept,) = real(own_session.cache.paths, world.loaded.spec, asked, ["text"]).values()
    assert 0 <= kept.n_more <= kept.n_steps <= 8
    raw = own_session.sql("select raw from answers where status = 'ok'").fetchall()
    n_tokens = [len(world.loaded.tokenizer.encode(text, add_special_tokens=False)) for (text,) in raw]
    assert kept.n_more == pytest.approx(sum(n_tokens) / len(n_tokens), abs=1.0)
