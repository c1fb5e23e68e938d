"""Margin gradients against finite differences of live steering, in float64, for every family."""

from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from steercache.steering.gradient import MarginGradients, gradient_rows, margin_gradients, option_margins
from steercache.trace.capture import model_inputs
from tests.steering.small import EXPERTS, FAMILIES, IMAGE, N_LAYERS, WIDTH, directions, padded_batch, small_model

Array = np.ndarray[Any, Any]
OPTIONS = [[20, 30, 40], [21, 31], [50]]  # three, two and one
LAYERS = (0, 1, N_LAYERS - 1)


def by_hand(logits_v: np.ndarray[Any, Any], ids: list[int]) -> list[float]:
    """Margins of one sample, from its whole distribution."""
    p = np.exp(logits_v - logits_v.max())
    p /= p.sum()
    if len(ids) == 1:
        return [float(np.log(p[ids[0]] / (1 - p[ids[0]])))]
    return [float(np.log(p[i]) - np.mean([np.log(p[j]) for j in ids if j != i])) for i in ids]


def gradients(family: str, dtype: torch.dtype = torch.float64, side: str = "left") -> tuple[Any, Any, MarginGradients]:
    # Gemma 2's eager attention gives NaN for padded prompts in float64, which no model is loaded in.
    lengths = (9, 9, 9) if family == "gemma2" and dtype == torch.float64 else (9, 12, 7)
    changes = {}
    if family in EXPERTS:  # all of them for every token: which are chosen jumps
        changes = {"text_config": IMAGE[family]["text_config"] | {EXPERTS[family]: 4}}
    loaded = small_model(family, dtype, **changes)
    batch = padded_batch(family, side=side, dtype=dtype, lengths=lengths)
    targets = {name: name for name in ("all", "text", *(("image",) if family in IMAGE else ()))}
    return loaded, batch, margin_gradients(loaded, batch, OPTIONS, layers=LAYERS, targets=targets)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_gradients_are_finite_differences_of_live_steering(family: str, side: str) -> None:
    loaded, batch, found = gradients(family, side=side)
    direction, has = directions(1)[0], ~np.isnan(found.margins)
    last = [start + n - 1 for start, n in zip(batch.starts, batch.lengths, strict=True)]

    def margins(layer: int, target: Any, alpha: float) -> list[list[float]]:
        v = SteeringVector(
            name="v", method="m", concept=None, site="resid_post", layers=(layer,), values=direction[None]
        )
        with steercache.steer(loaded, v, layer=layer, alpha=alpha, target=target):
            logits = loaded.model(**model_inputs(loaded, batch)).logits.numpy()
        rows = [by_hand(logits[i, last[i]], ids) for i, ids in enumerate(OPTIONS)]
        return [row + [np.nan] * (3 - len(row)) for row in rows]

    def slopes(layer: int, target: Any, step: float) -> Array:
        up, down = (np.array(margins(layer, target, a)) for a in (step, -step))
        return (up - down) / (2 * step)

    plain = margins(0, "all", 0.0)
    np.testing.assert_allclose(found.margins[has], np.array(plain)[has], atol=1e-4)
    for li, layer in enumerate(LAYERS):
        for ti, target in enumerate(found.targets):
            # Richardson: norms compute in float32 whatever the model's dtype, so that steps cannot be tiny
            expected = (4 * slopes(layer, target, 2.0**-6) - slopes(layer, target, 2.0**-5)) / 3
            atol = 3e-3 * np.nanmax(np.abs(expected)) + 1e-4
            np.testing.assert_allclose((found.values[li, :, ti] @ direction)[has], expected[has], atol=atol)


def test_options_that_a_sample_does_not_have_are_nan_and_margins_sum_to_zero() -> None:
    _, _, found = gradients("llama")
    assert np.isnan(found.margins).tolist() == [[False] * 3, [False, False, True], [False, True, True]]
    assert np.isnan(found.values[:, 1, :, 2]).all()
    assert not np.isnan(found.values[:, 1, :, :2]).any()
    np.testing.assert_allclose(found.values[:, 0].sum(axis=2), 0, atol=1e-6)
    np.testing.assert_allclose(found.margins[:2].sum(axis=1, where=~np.isnan(found.margins[:2])), 0, atol=1e-6)


def test_the_last_block_on_image_tokens_has_gradient_zero() -> None:
    _, batch, found = gradients("idefics3")
    image = found.targets.index("image")
    assert not found.values[LAYERS.index(N_LAYERS - 1), :, image, 0].any()
    assert found.values[0, :, image, 0].any()
    assert found.n_steered[:, image].tolist() == [4, 4, 4]
    assert found.n_steered[:, found.targets.index("all")].tolist() == list(batch.lengths)


def test_float32_and_bfloat16_models_agree_with_float64() -> None:
    exact = gradients("llama")[2].values
    scale = np.nanmax(np.abs(exact))
    np.testing.assert_allclose(gradients("llama", torch.float32)[2].values, exact, atol=1e-4 * scale)
    np.testing.assert_allclose(gradients("llama", torch.bfloat16)[2].values, exact, atol=0.15 * scale)


def test_gradients_come_out_in_inference_mode_too_and_leave_no_trace() -> None:
    loaded, batch, expected = gradients("llama", torch.float32)
    with torch.inference_mode():
        inside = margin_gradients(loaded, batch, OPTIONS, layers=LAYERS, targets={"all": "all", "text": "text"})
    np.testing.assert_array_equal(inside.values, expected.values)
    assert all(not m._forward_hooks for m in loaded.model.modules())
    assert all(p.grad is None for p in loaded.model.parameters())


def test_rows_are_ordered_by_sample_target_and_option() -> None:
    _, _, found = gradients("llama")
    rows = gradient_rows(found)
    expected = [(i, t, k) for i, ids in enumerate(OPTIONS) for t in range(2) for k in range(len(ids))]
    assert list(zip(rows.sample.tolist(), rows.target.tolist(), rows.option.tolist(), strict=True)) == expected
    assert rows.values.shape == (len(LAYERS), len(expected), WIDTH)
    assert rows.values.dtype == np.float32
    for r, (i, t, k) in enumerate(expected):
        np.testing.assert_array_equal(rows.values[:, r], found.values[:, i, t, k])
        assert rows.margin[r] == found.margins[i, k]
        assert rows.n_steered[r] == found.n_steered[i, t]
        np.testing.assert_array_equal(rows.row_norms[:, r], found.row_norms[:, i, t])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([[1, 2], [3, 4]], "options for 2 samples"),
        ([[1, 1], [3, 4], [5]], "begin with different tokens"),
        ([[], [3, 4], [5]], "begin with different tokens"),
        ([[1, 2], [3, 4], [97]], "outside the vocabulary"),
        ([[1, 2], [3, 4], [-1]], "outside the vocabulary"),
    ],
)
def test_options_that_cannot_be_told_apart_are_refused(options: list[list[int]], words: str) -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    with pytest.raises(UsageError, match=words):
        margin_gradients(loaded, batch, options, layers=[0], targets={"all": "all"})


def test_margins_do_not_hang_on_what_is_added_to_all_logits() -> None:
    logits = torch.randn(3, 97, dtype=torch.float64)
    ids = torch.tensor([[20, 30, 40], [21, 31, -1], [50, -1, -1]])
    torch.testing.assert_close(option_margins(logits, ids), option_margins(logits + 7, ids), equal_nan=True)
