"""Conditions of conditional steering: against the search of the authors' package in a few lines, and as a target in SQL."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import steercache
from steercache.core.errors import UsageError
from steercache.fit import find_condition, pca_center
from steercache.fit.condition import similarities
from tests.fit.test_pca import pairs
from tests.steering.tiny import tiny_model, vector


def test_the_condition_is_the_point_that_the_authors_search_finds() -> None:
    sel, positive, negative = pairs(25, 10)
    condition_vector = pca_center(sel)
    c = torch.from_numpy(condition_vector.at(0)).double()
    projector = torch.outer(c, c) / torch.dot(c, c)
    scores = []
    for row in np.concatenate([positive, negative]):
        h = torch.from_numpy(row)
        p = torch.tanh(projector @ h)
        scores.append(float(torch.dot(h, p) / (h.norm() * p.norm())))
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


@torch.no_grad()
def test_the_condition_is_a_target_that_steers_prompts_that_meet_it_and_no_others() -> None:
    model, v = tiny_model("llama"), vector(1, 2, scale=2.0)
    ids = torch.randint(3, 90, (6, 5), generator=torch.Generator().manual_seed(1))
    states = model(ids, output_hidden_states=True).hidden_states[2][:, -1]
    cosine = torch.nn.functional.cosine_similarity(states, torch.from_numpy(v.at(1))[None]).numpy()
    threshold = float(np.sort(cosine)[2:4].mean())
    condition = steercache.fit.condition.Condition(
        vector="v", layer=1, threshold=threshold, side="above", f1=1.0, similarity="cosine"
    )
    plain = model(ids).logits
    mask = torch.ones_like(ids)
    with steercache.steer(model, v, layer=2, alpha=1.0, target=condition.target):
        found = model(input_ids=ids, attention_mask=mask).logits
    moved = (found - plain).abs().amax(dim=(1, 2)) > 1e-3
    assert moved.tolist() == (cosine > threshold).tolist()
    assert 0 < int(moved.sum()) < len(ids)


def test_what_is_no_condition_is_refused() -> None:
    sel, _, _ = pairs(9, 6)
    v = pca_center(sel)
    with pytest.raises(UsageError, match="no similarity named"):
        find_condition(sel, v, similarity="dot")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="compares cosines"):
        _ = find_condition(sel, v, similarity="cast").target
    with pytest.raises(UsageError, match="no layer 3"):
        find_condition(sel, v, layers=[3])
