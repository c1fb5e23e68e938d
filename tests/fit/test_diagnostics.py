"""Folds, scores and stability: checked against scikit-learn, plain loops, and data without an answer."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.fit import compare, diagnose, linear_probe, mean_shift
from steercache.fit.bootstrap import draw_counts, shift_draws
from steercache.fit.folds import assign_folds, group_rows, usable_folds
from steercache.fit.scores import auc, token_scores
from steercache.fit.sides import split_sides
from tests.fit.arrays import ArraySource, selection
from tests.fit.planted import cos, planted


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40))
def test_auc_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([s for s, _ in rows], float)
    label = np.array([y for _, y in rows])
    assume(0 < label.sum() < len(label))
    assert auc(scores, label) == pytest.approx(roc_auc_score(label, scores))


def sentences(*words: tuple[int, ...], pair: list[int] | None = None) -> Selection:
    """One sentence per tuple of anchor tokens, with two control rows (tokens 90 and 91) each."""
    token, label, sample = [], [], []
    for i, anchors in enumerate(words):
        token += [*anchors, 90, 91]
        label += [1] * len(anchors) + [0, 0]
        sample += [i] * (len(anchors) + 2)
    n = len(token)
    columns = {"pair": np.array(pair)[sample]} if pair else {}
    return selection(
        ArraySource(arrays={0: np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)}),
        np.arange(n),
        np.array(label),
        sample_idx=np.array(sample),
        token_id=np.array(token, np.int32),
        **columns,
    )


def test_sentences_that_share_an_anchor_word_are_one_group_and_chains_count() -> None:
    sel = sentences((1,), (2,), (2, 3), (4,), (3, 5), (5,), (6,))
    groups = group_rows(sel, split_sides(sel))
    of_sentence = [int(groups[sel.sample_idx == i][0]) for i in range(7)]
    assert of_sentence[1] == of_sentence[2] == of_sentence[4] == of_sentence[5]
    assert len(set(of_sentence)) == 4
    assert all(len(set(groups[sel.sample_idx == i].tolist())) == 1 for i in range(7))


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=3), min_size=1, max_size=25))
def test_groups_are_the_connected_components_of_a_plain_search(words: list[list[int]]) -> None:
    sel = sentences(*(tuple(w) for w in words))
    groups = group_rows(sel, split_sides(sel))
    left, number, component = set(range(len(words))), 0, {}
    while left:
        front = [min(left)]
        while front:
            i = front.pop()
            if i in left:
                left.remove(i)
                component[i] = number
                front += [j for j in left if set(words[i]) & set(words[j])]
        number += 1
    expected = [component[int(i)] for i in sel.sample_idx]
    assert len(set(zip(expected, groups.tolist(), strict=True))) == number == len(set(groups.tolist()))


def test_pairs_are_kept_together_and_their_common_last_token_does_not_join_them() -> None:
    sel = sentences((7,), (7,), (7,), (7,), pair=[0, 0, 1, 1])
    groups = group_rows(sel, split_sides(sel))
    assert len(set(groups.tolist())) == 2
    assert set(groups[sel.sample_idx == 0]) == set(groups[sel.sample_idx == 1])


def test_folds_split_no_group_and_are_of_like_size() -> None:
    sel = planted(60, n_words=20)[0]
    sides = split_sides(sel)
    groups = group_rows(sel, sides)
    fold = assign_folds(groups, sides.label)
    assert all(len(set(fold[groups == g].tolist())) == 1 for g in range(20))
    assert usable_folds(fold, sides.label) == (0, 1, 2, 3, 4)
    anchors = [set(sel.token_id[(fold == f) & sides.label].tolist()) for f in range(5)]
    assert all(not a & b for a, b in pairwise(anchors))
    assert np.ptp(np.bincount(fold)) <= 27


def test_one_word_in_all_sentences_leaves_nothing_to_hold_out() -> None:
    sel = planted(10, n_words=1)[0]
    measured = diagnose(sel, mean_shift(sel), n_draws=5).diagnostics[0]
    assert measured["n_groups"] == 1
    assert measured["auc"] is None
    assert measured["token_auc"] is None
    assert measured["norm"] > 0
    assert linear_probe(sel).provenance["params"]["strength"] == [0.01, 0.01]


def test_held_out_auc_of_mean_shift_is_that_of_a_plain_loop() -> None:
    sel = planted(60)[0]
    sides = split_sides(sel)
    fold = assign_folds(group_rows(sel, sides), sides.label)
    vector = diagnose(sel, mean_shift(sel), n_draws=0)
    for measured in vector.diagnostics:
        x = sel.source.gather("resid_post", measured["layer"], sel.rows).astype(np.float64)
        expected = []
        for f in range(5):
            train = fold != f
            v = x[train & sides.label].mean(0) - x[train & ~sides.label].mean(0)
            expected.append(roc_auc_score(sides.label[~train], x[~train] @ v))
        assert measured["auc"] == pytest.approx(np.mean(expected), abs=1e-3)
        norms = np.linalg.norm(x[sel.position > 0], axis=1)
        assert measured["resid_norm"] == pytest.approx(np.median(norms), rel=1e-6)
        assert measured["norm_ratio"] == pytest.approx(measured["norm"] / np.median(norms), rel=1e-6)


@pytest.mark.parametrize(
    ("method", "recipe"), [(mean_shift, "default"), (linear_probe, "default"), (linear_probe, "paper")]
)
def test_planted_layers_score_high_and_others_and_shuffled_labels_at_chance(method: object, recipe: str) -> None:
    sel = planted(100, strength=5.0)[0]
    empty, full = diagnose(sel, method(sel, recipe=recipe), n_draws=0).diagnostics  # type: ignore[operator]
    assert full["auc"] > 0.9
    assert abs(empty["auc"] - 0.5) < 0.12
    shuffled = replace(sel, label=np.random.default_rng(4).permutation(sel.label))
    chance = diagnose(shuffled, method(shuffled, recipe=recipe), n_draws=0).diagnostics  # type: ignore[operator]
    assert all(abs(m["auc"] - 0.5) < 0.12 for m in chance if m["auc"] is not None)


def test_the_papers_and_the_default_probe_are_held_out_with_their_own_fit() -> None:
    sel = planted(40, strength=0.0)[0]
    vector = linear_probe(sel)
    seen = sel.source.gather("resid_post", 1, sel.rows) @ vector.at(1)
    assert roc_auc_score(sel.label, seen) > 0.7
    assert diagnose(sel, vector, n_draws=0).diagnostics[1]["auc"] < 0.65


def test_the_token_baseline_knows_words_it_has_seen_and_nothing_of_others() -> None:
    token = np.array([1, 1, 2, 2, 1, 2, 3], np.int32)
    label = np.array([1, 1, 0, 0, 1, 0, 1], bool)
    fold = np.array([0, 0, 0, 0, 1, 1, 1])
    scores = token_scores(token, label, fold=fold)
    np.testing.assert_allclose(scores[4:], [2.5 / 3, 0.5 / 3, 0.5])
    overall = 2 / 3
    np.testing.assert_allclose(scores[:4], [(1 + overall) / 2] * 2 + [overall / 2] * 2)


def test_a_concept_told_by_its_words_shows_in_the_baseline() -> None:
    sel = planted(60, strength=0.0, n_words=12)[0]
    told = diagnose(sel, mean_shift(sel), n_draws=0).diagnostics[1]
    assert told["token_auc"] > 0.8  # unseen anchors stand out among seen control words
    assert told["auc"] < 0.65
    same = replace(sel, token_id=np.where(sel.label == 1, sel.token_id, 500).astype(np.int32))
    known = replace(same, token_id=np.full(len(sel), 5, np.int32))
    groups = group_rows(known, split_sides(known))
    assert set(groups.tolist()) == {0}


def test_bootstrap_draws_are_mean_shifts_of_drawn_sentences() -> None:
    sel = planted(12)[0]
    sides = split_sides(sel)
    counts = draw_counts(sides.n_units, n_draws=6, seed=1)
    assert (counts.sum(axis=1) == 12).all()
    drawn = shift_draws(sel, sides, layer=1, counts_bu=counts)
    x = sel.source.gather("resid_post", 1, sel.rows).astype(np.float64)
    for b in range(6):
        index = np.concatenate([np.flatnonzero(sel.sample_idx == s) for s in range(12) for _ in range(counts[b, s])])
        expected = x[index][sel.label[index] == 1].mean(0) - x[index][sel.label[index] == 0].mean(0)
        np.testing.assert_allclose(drawn[b], expected, atol=1e-5)


def test_more_sentences_make_a_vector_more_stable() -> None:
    few, many = (planted(n, strength=4.0, seed=3)[0] for n in (8, 200))
    low, high = (diagnose(s, mean_shift(s)).diagnostics[1] for s in (few, many))
    assert low["stability"] < high["stability"] <= 1
    assert high["stability_low"] <= high["stability"] <= high["stability_high"]
    assert high["n_draws"] == 200
    probe = diagnose(many, linear_probe(many), n_draws=4).diagnostics[1]
    assert 0.5 < probe["stability"] <= 1
    assert probe["n_draws"] == 4


def test_diagnostics_are_no_part_of_the_id_and_the_same_again() -> None:
    sel = planted(20)[0]
    vector = mean_shift(sel)
    measured = diagnose(sel, vector, n_draws=10)
    assert measured.vector_id == vector.vector_id
    assert measured.diagnostics == diagnose(sel, vector, n_draws=10).diagnostics


def test_cosines_between_methods_are_told_per_layer() -> None:
    sel = planted(30)[0]
    shift, probe = mean_shift(sel), linear_probe(sel, layers=[1])
    measured = diagnose(sel, shift, others=[probe], n_draws=0).diagnostics
    assert measured[0]["cosine"] == {}
    assert measured[1]["cosine"] == {probe.name: pytest.approx(cos(shift.at(1), probe.at(1)))}
    [row] = compare([shift, probe])
    assert row["layer"] == 1
    assert row["cosines"] == {f"{shift.name} ~ {probe.name}": pytest.approx(cos(shift.at(1), probe.at(1)))}


def test_vectors_of_other_methods_are_scored_as_they_are_and_say_so() -> None:
    sel, direction = planted(30, strength=5.0)
    foreign = replace(mean_shift(sel, layers=[1]), method="sae", values=direction[None].astype(np.float32))
    measured = diagnose(sel, foreign).diagnostics[0]
    assert measured["held_out"] is False
    assert measured["auc"] > 0.9
    assert measured["stability"] is None


def test_a_selection_of_another_run_is_refused() -> None:
    sel = planted(10)[0]
    vector = mean_shift(sel)
    other = replace(sel, source=ArraySource(arrays=sel.source.arrays, run_id="other"))  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="not fitted on it"):
        diagnose(other, vector)
    with pytest.raises(UsageError, match="at least two"):
        compare([vector])
    with pytest.raises(UsageError, match="no layer in common"):
        compare([mean_shift(sel, layers=[0]), mean_shift(sel, layers=[1])])


def test_other_rows_of_the_same_run_are_refused() -> None:
    sel = sentences((1,), (2,), (3,), (4,))
    vector = mean_shift(sel)
    other = replace(sel, label=1 - sel.label)  # type: ignore[operator]
    with pytest.raises(UsageError, match="fitted on other rows"):
        diagnose(other, vector)


def test_a_word_with_and_without_its_space_is_one_word() -> None:
    sel = sentences((1,), (2,), (3,))
    apart = group_rows(sel, split_sides(sel))
    same = replace(sel, words=lambda: np.where(np.isin(sel.token_id, (1, 3)), 7, sel.token_id).astype(np.int64))
    joined = group_rows(same, split_sides(same))
    assert len(set(apart.tolist())) == 3
    assert len(set(joined.tolist())) == 2
    assert joined[0] == joined[6]
