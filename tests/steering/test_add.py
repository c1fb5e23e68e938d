"""The one adding function: exact in its stated rounding, and nowhere but at the target."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steercache.core.errors import UsageError
from steercache.steering.add import add_vector, delta_of, scale_direction
from tests.steering.tiny import vector

DTYPES = {torch.float32: np.float32, torch.bfloat16: ml_dtypes.bfloat16, torch.float16: np.float16}


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=st.integers(0, 2**31), alpha=st.floats(-60, 60), size=st.floats(1e-3, 200))
def test_target_rows_are_rounded_once_and_all_others_keep_their_bits(
    dtype: torch.dtype, seed: int, alpha: float, size: float
) -> None:
    rng = np.random.default_rng(seed)
    hidden = torch.from_numpy((rng.normal(size=(2, 5, 8)) * size).astype(np.float32)).to(dtype)
    direction = rng.normal(size=8).astype(np.float32)
    mask = torch.from_numpy(rng.random((2, 5)) < 0.5)
    steered = add_vector(hidden, torch.from_numpy(scale_direction(direction, alpha)), mask)
    assert steered.dtype == dtype
    assert torch.equal(steered[~mask], hidden[~mask])
    expected = hidden.float().numpy() + np.float32(alpha) * direction  # numpy in float32 ...
    rounded = expected.astype(DTYPES[dtype]).astype(np.float32)  # ... and one cast, by another library
    assert (steered.float().numpy()[mask.numpy()] == rounded[mask.numpy()]).all()


def test_rounding_once_differs_from_casting_the_vector_first() -> None:
    rng = np.random.default_rng(0)
    hidden = torch.from_numpy(rng.normal(size=(1, 400, 64)).astype(np.float32)).bfloat16()
    delta = torch.from_numpy(rng.normal(size=64).astype(np.float32))
    ours = add_vector(hidden, delta, torch.ones(1, 400, dtype=torch.bool))
    exact = hidden.double() + delta.double()
    usual = hidden + delta.bfloat16()
    assert 0.01 < (ours != usual).float().mean() < 0.3
    assert (ours.double() - exact).abs().mean() < (usual.double() - exact).abs().mean()


def test_every_sequence_may_get_its_own_vector() -> None:
    hidden = torch.randn(3, 4, 8)
    deltas = torch.randn(3, 1, 8)
    together = add_vector(hidden, deltas, torch.ones(3, 4, dtype=torch.bool))
    for i in range(3):
        alone = add_vector(hidden[i : i + 1], deltas[i, 0], torch.ones(1, 4, dtype=torch.bool))
        assert torch.equal(together[i], alone[0])


def test_gradients_pass_through_hidden_states_and_vector() -> None:
    hidden = torch.randn(1, 3, 8, requires_grad=True)
    delta = torch.zeros(8, requires_grad=True)
    mask = torch.tensor([[True, False, True]])
    weight = torch.randn(1, 3, 8)
    (add_vector(hidden, delta, mask) * weight).sum().backward()
    assert torch.equal(hidden.grad, weight)
    torch.testing.assert_close(delta.grad, weight[0, 0] + weight[0, 2])


def test_resid_norm_means_multiples_of_the_median_row() -> None:
    v = vector(2, diagnostics=({"layer": 2, "resid_norm": 50.0},))
    assert np.linalg.norm(delta_of(v, 2, alpha=0.5, alpha_unit="resid_norm")) == pytest.approx(25.0, rel=1e-5)
    assert (delta_of(v, 2, alpha=0.5) == np.float32(0.5) * v.at(2)).all()


def test_target_norm_means_multiples_of_the_norm_given_whatever_the_vector_was_fitted_on() -> None:
    v = vector(2, diagnostics=({"layer": 2, "resid_norm": 50.0},))
    delta_d = delta_of(v, 2, alpha=-0.5, alpha_unit="target_norm", row_norm=8.0)
    assert np.linalg.norm(delta_d) == pytest.approx(4.0, rel=1e-6)
    np.testing.assert_allclose(delta_d, -4.0 * v.at(2) / np.linalg.norm(v.at(2)), rtol=1e-5)


def test_what_cannot_be_added_is_refused() -> None:
    with pytest.raises(UsageError, match="not measured here"):
        delta_of(vector(2), 2, alpha=1.0, alpha_unit="target_norm")
    with pytest.raises(UsageError, match="finite"):
        delta_of(vector(2), 2, alpha=float("nan"))
    with pytest.raises(UsageError, match="finite"):
        delta_of(vector(2), 2, alpha=float("-inf"))
    with pytest.raises(UsageError, match="overflows"):
        delta_of(vector(2), 2, alpha=3e38)
    with pytest.raises(UsageError, match="no layer 3"):
        delta_of(vector(2), 3, alpha=1.0)
    with pytest.raises(UsageError, match="does not say how long"):
        delta_of(vector(2), 2, alpha=1.0, alpha_unit="resid_norm")
    with pytest.raises(UsageError, match="alpha unit 'sigma'"):
        delta_of(vector(2), 2, alpha=1.0, alpha_unit="sigma")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no direction"):
        delta_of(
            vector(2, scale=0, diagnostics=({"layer": 2, "resid_norm": 1.0},)), 2, alpha=1.0, alpha_unit="resid_norm"
        )
