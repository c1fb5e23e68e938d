"""Conditions of conditional steering: against the search of the authors' package in a few lines."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from steercache.core.errors import UsageError
from steercache.fit import find_condition, pca_center
from steercache.fit.condition import similarities
from tests.fit.test_pca import pairs


def test_the_condition_is_the_point_that_the_authors_search_finds() -> None:
    sel, positive, negative = pairs(25, 10)
    condition_vector = pca_center(sel)
    c = condition_vector.at(0).astype(np.float64)
    projector = np.outer(c, c) / np.dot(c, c)
    scores = []
    for h in np.concatenate([positive, negative]):
        p = np.tanh(projector @ h)
        scores.append(float(np.dot(h, p) / (np.linalg.norm(h) * np.linalg.norm(p))))
    label = [1] * 25 + [0] * 25
    best, point = 0.0, None
    for threshold in np.arange(0.0, 1.0, 0.01):
        for direction in ("larger", "smaller"):  # in their words: the threshold is larger, or smaller
            predicted = [int((s > threshold) == (direction == "smaller")) for s in scores]
            if f1_score(label, predicted) > best:
                best, point = f1_score(label, predicted), (threshold, direction)
    found = find_condition(sel, condition_vector, similarity="cast")
    assert found.f1 == pytest.approx(best)
    assert point is not None
    at = similarities(sel, condition_vector, 0, similarity="cast")
    met = at > found.threshold if found.side == "above" else at <= found.threshold
    assert f1_score(np.asarray(sel.label), met) == pytest.approx(best)
    theirs = sorted(scores)
    np.testing.assert_allclose(np.sort(at), theirs, atol=1e-6)


def test_a_planted_condition_is_found_by_its_cosine() -> None:
    sel, positive, negative = pairs(40, 12)
    truth = positive.mean(axis=0) - negative.mean(axis=0)
    centred = replace(pca_center(sel), values=truth[None].astype(np.float32))
    found = find_condition(sel, centred)
    rows, label = sel.gather(0).astype(np.float64), np.asarray(sel.label)
    cosines = rows @ truth / np.linalg.norm(rows, axis=1) / np.linalg.norm(truth)
    every = [f1_score(label, m) for t in np.arange(-1, 1, 0.01) for m in (cosines > t, cosines <= t)]
    assert found.f1 == pytest.approx(max(every), abs=0.03)  # rows within rounding of a threshold
    assert found.side == "above"


def test_what_is_no_condition_is_refused() -> None:
    sel, _, _ = pairs(9, 6)
    v = pca_center(sel)
    with pytest.raises(UsageError, match="no similarity named"):
        find_condition(sel, v, similarity="dot")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="compares cosines"):
        _ = find_condition(sel, v, similarity="cast").target
    with pytest.raises(UsageError, match="no layer 3"):
        find_condition(sel, v, layers=[3])
