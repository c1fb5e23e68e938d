"""Control directions: right norms, right covariance, right counts of labels, the same from the same seed."""

import json

import numpy as np
import pytest

from steercache.cells.controls import (
    concept_controls,
    covariance_controls,
    random_controls,
    shuffled_controls,
    shuffles,
)
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector

D = 12


def _vector(concept: str = "counting", seed: int = 0, layers: tuple[int, ...] = (3, 5)) -> SteeringVector:
    values = np.random.default_rng(seed).normal(size=(len(layers), D)).astype(np.float32)
    return SteeringVector(
        name=f"{concept}-v", method="mean_shift", concept=concept, site="resid_post", layers=layers, values=values
    )


def _rows(layer: int) -> np.ndarray:
    rng = np.random.default_rng(100 + layer)
    return (rng.normal(size=(300, D)) @ (rng.normal(size=(D, D)) * np.linspace(0.1, 3, D)) + 50).astype(np.float32)


def test_every_kind_has_the_real_vectors_norm_at_every_layer_and_says_what_it_is() -> None:
    vec = _vector()
    kinds = {
        "covariance": covariance_controls(vec, _rows, count=3, seed=4),
        "random": random_controls(vec, count=3, seed=4),
        "other_concept": concept_controls(vec, [_vector("action", 1), _vector("counting", 2), _vector("entity", 3)]),
        "label_shuffled": shuffled_controls(vec, _labels(), _refit, count=3, seed=4),
    }
    ids = set()
    for kind, controls in kinds.items():
        for i, control in enumerate(controls):
            np.testing.assert_allclose(control.norms, vec.norms, rtol=1e-5)
            assert control.provenance["control_kind"] == kind
            assert control.provenance["control_seed"] == (None if kind == "other_concept" else 4)
            assert control.provenance["control_index"] == i
            assert control.provenance["control_of"] == vec.vector_id
            assert (control.layers, control.site, control.concept) == (vec.layers, vec.site, vec.concept)
            json.dumps(dict(control.provenance))
            ids.add(control.vector_id)
    assert len(ids) == 3 + 3 + 2 + 3


def test_the_same_seed_gives_the_same_bytes_and_more_controls_keep_the_first_ones() -> None:
    vec = _vector()
    for make in (
        lambda n, s: covariance_controls(vec, _rows, count=n, seed=s),
        lambda n, s: random_controls(vec, count=n, seed=s),
    ):
        few, many, other = make(2, 7), make(5, 7), make(2, 8)
        assert [c.vector_id for c in few] == [c.vector_id for c in many[:2]]
        assert not {c.vector_id for c in few} & {c.vector_id for c in other}


def test_covariance_controls_have_the_covariance_of_the_rows() -> None:
    vec = _vector(layers=(3,))
    draws = np.stack([c.values[0] for c in covariance_controls(vec, _rows, count=4000, seed=1)]).astype(float)
    rows = _rows(3).astype(float)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    shares = np.mean((draws @ vectors) ** 2, axis=0)
    # scaled to one norm each draw is no longer normal, but its directions keep the order and nearly the share of variance
    z = np.random.default_rng(2).normal(size=(40_000, D)) * np.sqrt(values)
    z *= vec.norms[0] / np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(shares, np.mean(z**2, axis=0), rtol=0.12, atol=1e-3)
    plain = np.stack([c.values[0] for c in random_controls(vec, count=4000, seed=1)]).astype(float)
    flat = np.mean((plain @ vectors) ** 2, axis=0)
    assert shares.max() / flat.max() > 3


def test_the_mean_of_the_rows_has_no_part_in_a_control() -> None:
    vec = _vector(layers=(3,))
    moved = covariance_controls(vec, lambda layer: _rows(layer) + 1000, count=2, seed=0)
    still = covariance_controls(vec, _rows, count=2, seed=0)
    for a, b in zip(moved, still, strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=2e-3)


def _labels() -> np.ndarray:
    return (np.arange(60) % 5 == 0).astype(np.int8)


def _refit(labels: np.ndarray) -> SteeringVector:
    rows = {layer: _rows(layer)[:60] for layer in (3, 5)}
    values = [r[labels == 1].mean(axis=0) - r[labels == 0].mean(axis=0) for r in rows.values()]
    return SteeringVector(
        name="refit", method="mean_shift", concept="counting", site="resid_post", layers=(3, 5), values=np.stack(values)
    )


def test_shuffled_labels_are_the_same_labels_elsewhere() -> None:
    labels, groups = _labels(), np.arange(60) // 10
    seen = list(shuffles(labels, groups, count=50, seed=3))
    for shuffled in seen:
        assert [shuffled[groups == g].sum() for g in range(6)] == [labels[groups == g].sum() for g in range(6)]
    places = np.mean(seen, axis=0)
    assert places.min() > 0.05  # every place of a sentence gets its turn (expected 0.2)
    assert places.max() < 0.4
    free = list(shuffles(labels, None, count=20, seed=3))
    assert all(s.sum() == labels.sum() for s in free)
    assert any(s[groups == 0].sum() != labels[groups == 0].sum() for s in free)


def test_a_shuffled_control_is_the_refit_on_those_labels() -> None:
    vec = _refit(_labels())
    (control,) = shuffled_controls(vec, _labels(), _refit, count=1, seed=9)
    (labels,) = shuffles(_labels(), count=1, seed=9)
    expected = _refit(labels)
    for layer in vec.layers:
        a, b = control.at(layer), expected.at(layer)
        assert float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) == pytest.approx(1, abs=1e-6)
    assert control.provenance["control_refit"] == expected.vector_id


def test_what_cannot_be_a_control_is_refused() -> None:
    vec = _vector()
    with pytest.raises(UsageError, match="width"):
        covariance_controls(vec, lambda layer: np.ones((5, D + 1)))
    with pytest.raises(UsageError, match="is zero or holds NaN"):
        covariance_controls(vec, lambda layer: np.ones((5, D)))
    with pytest.raises(UsageError, match="at layer 5"):
        covariance_controls(vec, lambda layer: _rows(layer)[: 10 + layer])
    with pytest.raises(UsageError, match="no labels to permute"):
        list(shuffles(np.ones(4, dtype=np.int8), count=1))
    with pytest.raises(UsageError, match="another concept"):
        concept_controls(vec, [_vector("counting", 5)])
    with pytest.raises(UsageError, match=r"lacks layers \[5\]"):
        concept_controls(vec, [_vector("action", 5, layers=(3, 4))])
    with pytest.raises(UsageError):
        random_controls(vec, count=0)
