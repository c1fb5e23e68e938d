"""Angular steering: against the authors' projection and rotation matrices, and what must hold of a turn in a plane."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steercache
from steercache.core.errors import UsageError
from steercache.core.operations import RotateInPlane
from steercache.core.vector_use import VectorUse
from steercache.core.vectors import SteeringVector
from steercache.steering.operations.apply import apply, as_applied
from steercache.steering.operations.change import change_of
from steercache.steering.operations.plane import own_plane
from tests.steering.test_operations import HIDDEN, Rows, V, applied, plane_by_hand
from tests.steering.tiny import N_LAYERS, tiny_model, vector

ADAPTIVE, ALWAYS = "rotate_in_plane_adaptive", "rotate_in_plane"


def by_matrices(h: Rows, first: Rows, second: Rows, degrees: float, *, adaptive: bool) -> Rows:
    """h + mask (|P h| [b1 b2] R (1, 0) - P h), as the paper writes it: P projects on the plane, R turns in it."""
    b1 = first / np.linalg.norm(first)
    b2 = second - (second @ b1) * b1
    b2 /= np.linalg.norm(b2)
    projection = np.outer(b1, b1) + np.outer(b2, b2)
    t = np.deg2rad(degrees)
    turn = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    wanted = np.stack([b1, b2], axis=1) @ turn @ np.array([1.0, 0.0])
    in_plane = h @ projection
    mask = (h @ first > 0)[..., None] if adaptive else 1
    return h + mask * (np.linalg.norm(in_plane, axis=-1, keepdims=True) * wanted - in_plane)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 30.0, 180.0, 250.0, -45.0])
def test_hidden_states_are_those_of_the_authors_hook(degrees: float, adaptive: bool) -> None:
    text = f"{ADAPTIVE if adaptive else ALWAYS}:angle={degrees}"
    first, second = (one.at(1).astype(np.float64) for one in V[:2])
    expected = by_matrices(HIDDEN, first, second, degrees, adaptive=adaptive)
    np.testing.assert_allclose(applied(HIDDEN, text, 1.0, V[:2]), expected, atol=1e-5)
    moved = np.abs(expected - HIDDEN).max(axis=1) > 1e-3
    assert moved.all() if not adaptive else 0 < moved.sum() < len(moved)
    own = by_matrices(HIDDEN, *plane_by_hand(V[0]), degrees, adaptive=adaptive)
    np.testing.assert_allclose(applied(HIDDEN, text, 1.0, V[0]), own, atol=1e-5)


@given(
    degrees=st.floats(-400, 400),
    share=st.floats(-1, 1),
    seed=st.integers(0, 2**16),
    name=st.sampled_from([ALWAYS, ADAPTIVE]),
)
def test_a_turn_keeps_norms_and_what_is_not_in_the_plane_and_twice_is_once(
    degrees: float, share: float, seed: int, name: str
) -> None:
    h = np.random.default_rng(seed).normal(size=(8, 32)) * 10.0 ** (seed % 5 - 2)
    scale = np.linalg.norm(h, axis=1, keepdims=True)
    text, plane = f"{name}:angle={degrees}", own_plane(V[0]).astype(np.float64)
    found = applied(h, text, share, V[0])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1, keepdims=True) / scale, 1.0, atol=2e-6)
    outside = np.eye(32) - plane.T @ plane
    np.testing.assert_allclose((found - h) @ outside / scale, 0.0, atol=2e-6)
    whole = applied(h, text, 1.0, V[0])
    np.testing.assert_allclose(applied(whole, text, 1.0, V[0]) / scale, whole / scale, atol=2e-6)
    turned = np.full(8, True) if name == ALWAYS else h @ plane[0] > 0
    t = np.deg2rad(degrees)
    in_plane = whole[turned] @ plane.T
    radius = np.linalg.norm(h[turned] @ plane.T, axis=1, keepdims=True)
    np.testing.assert_allclose(in_plane / scale[turned], radius * [np.cos(t), np.sin(t)] / scale[turned], atol=2e-6)


def test_a_share_and_the_rest_of_the_way_are_the_whole_turn_and_the_other_way_round() -> None:
    text = f"{ALWAYS}:angle=40"
    half = applied(HIDDEN, text, 0.5, V[0])
    np.testing.assert_allclose(applied(half, text, 1.0, V[0]), applied(HIDDEN, text, 1.0, V[0]), atol=1e-5)
    third = applied(applied(HIDDEN, text, 1 / 3, V[0]), text, 0.25, V[0])  # a third, and a quarter of what is left
    np.testing.assert_allclose(third, half, atol=1e-5)


def test_a_hidden_state_without_a_part_in_the_plane_stays() -> None:
    plane = own_plane(V[0]).astype(np.float64)
    h = HIDDEN - HIDDEN @ plane.T @ plane
    np.testing.assert_allclose(applied(h, f"{ALWAYS}:angle=90", 1.0, V[0]), h, atol=1e-5)
    assert np.array_equal(applied(np.zeros((2, 32)), f"{ALWAYS}:angle=90", 1.0, V[0]), np.zeros((2, 32)))


@torch.inference_mode()
def test_a_row_has_the_same_bits_whatever_strengths_and_weights_stand_beside_it() -> None:
    hidden = torch.from_numpy(HIDDEN).float()[None]
    changes = [change_of(V[0], 1, alpha=a, operation=RotateInPlane(angle=70)) for a in (1.0, 0.5, -0.2)]
    ones = torch.ones(1, 50, dtype=torch.bool)
    alone = [apply(hidden, as_applied([one]), ones) for one in changes]
    together = apply(hidden.repeat(3, 1, 1), as_applied(changes), ones.repeat(3, 1))
    assert torch.equal(together, torch.cat(alone))
    weights = torch.tensor([1.0, 0.5, 0.0]).repeat(17)[None, :50]
    weighed = apply(hidden, as_applied(changes[:1]), weights)
    for weight, expected in ((1.0, alone[0]), (0.5, alone[1]), (0.0, hidden)):
        assert torch.equal(weighed[weights == weight], expected[weights == weight])


@contextmanager
def turned_at_every_block(model: Any, first: Rows, second: Rows, degrees: float) -> Iterator[None]:
    def hook(module: Any, args: Any, out: Any) -> Any:
        hidden = out[0] if isinstance(out, tuple) else out
        moved = torch.from_numpy(by_matrices(hidden.double().numpy(), first, second, degrees, adaptive=True)).float()
        return (moved, *out[1:]) if isinstance(out, tuple) else moved

    handles = [block.register_forward_hook(hook) for block in model.model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def random_vector() -> SteeringVector:
    values: npt.NDArray[np.float32] = np.random.default_rng(5).normal(size=(N_LAYERS, 32)).astype(np.float32)
    return replace(vector(*range(N_LAYERS)), values=values)


@torch.no_grad()
def test_a_vectors_use_turns_at_every_layer_and_generated_tokens_too() -> None:
    model, v = tiny_model("llama"), random_vector()
    use = VectorUse(
        operation=ADAPTIVE, parameters={"angle": 150.0}, layers=v.layers, strength=1.0, phase="both", place="resid_post"
    )
    ids = torch.tensor([[3, 14, 15, 9]])
    with turned_at_every_block(model, *plane_by_hand(v), 150.0):
        expected = model(ids).logits
        written = model.generate(ids, max_new_tokens=4, do_sample=False)
    on = steercache.steered(model, replace(v, use=use))
    torch.testing.assert_close(on(ids).logits, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(on.generate(ids, max_new_tokens=4, do_sample=False), written)
    assert (expected - model(ids).logits).abs().max() > 1e-2


def test_what_spans_no_plane_is_refused() -> None:
    turn = RotateInPlane(angle=90)
    with pytest.raises(UsageError, match="has one direction, so it has no plane"):
        change_of(vector(1), 1, alpha=1.0, operation=turn)
    with pytest.raises(UsageError, match="lie along one line"):
        change_of(
            replace(V[0], values=np.outer([1, 2, 3, -1], V[0].at(0)).astype(np.float32)), 1, alpha=1.0, operation=turn
        )
    with pytest.raises(UsageError, match="lies in the span"):
        change_of([V[0], V[0]], 1, alpha=1.0, operation=turn)
    with pytest.raises(UsageError, match="is zero at layer 0"):
        change_of(vector(0, 1, scale=0.0), 1, alpha=1.0, operation=turn)
    with pytest.raises(UsageError, match="no layer 9"):
        change_of(V[0], 9, alpha=1.0, operation=turn)
    with pytest.raises(UsageError, match="a share of the component and has no other unit"):
        change_of(V[0], 1, alpha=1.0, alpha_unit="resid_norm", operation=turn)
