"""Mean shift against plain numpy, from every kind of source, whatever the order and size of things."""

import ml_dtypes
import numpy as np
import pytest

from steercache.core.errors import DamagedError, UsageError
from steercache.fit import mean_shift
from tests.fit.arrays import ArraySource, CountingSource, ViewedSource, selection

N, D = 3000, 48


def arrays(dtype: object = np.float32, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {layer: (rng.normal(size=(N, D)) * 3 + layer).astype(dtype) for layer in (0, 3, 7)}


def picked(share: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(N) < share)
    return rows, (rng.random(len(rows)) < 0.3).astype(np.int8)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("share", [0.05, 0.9])
def test_mean_shift_is_the_difference_of_two_means(dtype: object, share: float) -> None:
    data = arrays(dtype)
    rows, label = picked(share)
    vector = mean_shift(selection(ArraySource(arrays=data), rows, label))
    assert vector.layers == (0, 3, 7)
    for i, layer in enumerate(vector.layers):
        x = data[layer].astype(np.float64)[rows]
        expected = x[label == 1].mean(0) - x[label == 0].mean(0)
        np.testing.assert_allclose(vector.values[i], expected, atol=1e-5)


@pytest.mark.parametrize("share", [0.05, 0.6, 1.0])
def test_views_and_gathers_give_the_same_bytes(share: float) -> None:
    data = arrays(ml_dtypes.bfloat16)
    rows, label = picked(share)
    gathered = mean_shift(selection(ArraySource(arrays=data), rows, label))
    whole = mean_shift(selection(ViewedSource(arrays=data), rows, label))
    sharded = mean_shift(selection(ViewedSource(arrays=data, starts=(0, 700, 1111, 2900)), rows, label))
    assert gathered.values.tobytes() == whole.values.tobytes() == sharded.values.tobytes()
    assert gathered.vector_id == sharded.vector_id


def test_fitting_twice_and_fitting_fewer_layers_give_the_same_bytes() -> None:
    data = arrays()
    rows, label = picked(0.7)
    sel = selection(ArraySource(arrays=data), rows, label)
    both = mean_shift(sel)
    assert both.vector_id == mean_shift(sel).vector_id
    assert both.at(3).tobytes() == mean_shift(sel, layers=[3]).at(3).tobytes()


def test_rows_of_infinity_and_nan_between_the_selected_ones_do_not_count() -> None:
    data = arrays()
    rows, label = picked(0.7)
    left_out = np.setdiff1d(np.arange(rows[0], rows[-1]), rows)
    clean = mean_shift(selection(ViewedSource(arrays=data), rows, label))
    data[3][left_out[::2]] = np.nan
    data[7][left_out[::3]] = np.inf
    dirty = mean_shift(selection(ViewedSource(arrays=data), rows, label))
    assert clean.values.tobytes() == dirty.values.tobytes()


def test_a_selected_row_that_is_not_finite_is_named() -> None:
    data = arrays()
    rows, label = picked(0.7)
    data[3][rows[40], 5] = np.inf
    with pytest.raises(DamagedError, match=f"row {rows[40]} of layer 3"):
        mean_shift(selection(ArraySource(arrays=data), rows, label))


def test_massive_activations_do_not_swallow_the_small_ones() -> None:
    data = {0: arrays()[0]}
    data[0][:, 7] = 26_880.0
    rows, label = picked(1.0)
    vector = mean_shift(selection(ArraySource(arrays=data), rows, label))
    assert vector.values[0, 7] == 0
    x = data[0].astype(np.float64)
    np.testing.assert_allclose(vector.values[0], x[label == 1].mean(0) - x[label == 0].mean(0), atol=1e-5)


def test_moving_every_row_changes_nothing_and_scaling_scales() -> None:
    data = arrays()
    rows, label = picked(0.5)
    plain = mean_shift(selection(ArraySource(arrays=data), rows, label)).values
    moved = {k: v + np.float32(2.0) for k, v in data.items()}
    np.testing.assert_allclose(mean_shift(selection(ArraySource(arrays=moved), rows, label)).values, plain, atol=1e-5)
    doubled = {k: v * 2 for k, v in data.items()}
    assert (mean_shift(selection(ArraySource(arrays=doubled), rows, label)).values == 2 * plain).all()
    swapped = mean_shift(selection(ArraySource(arrays=data), rows, 1 - label)).values
    assert (swapped == -plain).all()


def test_the_order_of_rows_in_the_store_does_not_matter() -> None:
    data = arrays()
    rows, label = picked(1.0)
    order = np.random.default_rng(5).permutation(N)
    shuffled = {k: v[order] for k, v in data.items()}
    a = mean_shift(selection(ArraySource(arrays=data), rows, label)).values
    b = mean_shift(selection(ArraySource(arrays=shuffled), rows, label[order])).values
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_row_of_weight_two_is_a_row_seen_twice() -> None:
    data = arrays()
    rows, label = picked(0.4)
    weight = np.ones(len(rows), np.float32)
    weight[::3] = 2
    doubled = {k: np.concatenate([v[rows], v[rows][::3]]) for k, v in data.items()}
    twice = np.concatenate([label, label[::3]])
    a = mean_shift(selection(ArraySource(arrays=data), rows, label, weight=weight)).values
    b = mean_shift(selection(ArraySource(arrays=doubled), np.arange(len(twice)), twice)).values
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_pairs_count_alike_however_many_rows_they_have() -> None:
    data = {0: arrays()[0]}
    rng = np.random.default_rng(3)
    rows = np.arange(400)
    pair = np.sort(rng.integers(0, 40, 400))
    label = rng.integers(0, 2, 400)
    first_of_pair = np.unique(pair, return_index=True)[1]
    label[first_of_pair], label[first_of_pair + 1] = 1, 0
    vector = mean_shift(selection(ArraySource(arrays=data), rows, label, pair=pair + 1000))
    x = data[0].astype(np.float64)
    expected = np.mean(
        [x[:400][(pair == p) & (label == 1)].mean(0) - x[:400][(pair == p) & (label == 0)].mean(0) for p in set(pair)],
        axis=0,
    )
    np.testing.assert_allclose(vector.values[0], expected, atol=1e-5)
    pooled = mean_shift(selection(ArraySource(arrays=data), rows, label, pair=pair), recipe="paper")
    plain = mean_shift(selection(ArraySource(arrays=data), rows, label))
    assert (pooled.values == plain.values).all()
    assert not np.allclose(pooled.values[0], expected, atol=1e-3)


def test_a_pair_weighted_two_is_a_pair_seen_twice() -> None:
    data = {0: arrays()[0]}
    label = np.tile([1, 0], 30)
    pair = np.repeat(np.arange(30), 2)
    weight = np.where(pair < 10, 2, 1).astype(np.float32)
    a = mean_shift(selection(ArraySource(arrays=data), np.arange(60), label, pair=pair, weight=weight)).values
    seen = {0: np.concatenate([data[0][:60], data[0][:20]])}
    again = np.concatenate([pair, pair[:20] + 100])
    b = mean_shift(selection(ArraySource(arrays=seen), np.arange(80), np.tile([1, 0], 40), pair=again)).values
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_more_than_a_block_of_rows_is_held() -> None:
    source = CountingSource(arrays=arrays())
    rows, label = picked(1.0)
    mean_shift(selection(source, rows, label))
    assert max(source.largest) <= 2048


def test_provenance_says_what_was_fitted_and_that_the_source_was_lossy() -> None:
    rows, label = picked(0.5)
    vector = mean_shift(selection(ArraySource(arrays=arrays(), generation="g0002", lossy=True), rows, label))
    made = vector.provenance
    assert made["query"] == {"name": "anchors", "text": "select 1", "bindings": {"concept": "counting"}}
    assert (made["run_id"], made["generation"], made["lossy"], made["recipe"]) == ("run-0", "g0002", True, "default")
    assert made["rows"]["n"] == len(rows)
    assert made["rows"]["n_concept"] == label.sum()
    assert made["versions"]["numpy"] == np.__version__
    exact = mean_shift(selection(ArraySource(arrays=arrays()), rows, label))
    assert exact.provenance["lossy"] is False


@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        ({}, [1, 1, 1, 1], "both sides"),
        ({}, [0, 0, 0, 0], "both sides"),
        ({}, [0, 1, 2, 1], "also has 2"),
        ({"weight": np.array([1, -1, 1, 1], np.float32)}, [0, 1, 0, 1], "1 weights are negative"),
        ({"weight": np.array([0, 1, 0, 1], np.float32)}, [0, 1, 0, 1], "all zero"),
        ({"pair": np.array([1, 1, 2, 2])}, [0, 1, 1, 1], "1 of 2 pairs .* pair 2"),
    ],
)
def test_selections_without_two_sides_are_refused(columns: dict[str, object], label: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mean_shift(selection(ArraySource(arrays=arrays()), np.arange(4), np.array(label), **columns))


def test_unknown_layers_recipes_and_weighted_paper_fits_are_refused() -> None:
    sel = selection(ArraySource(arrays=arrays()), np.arange(4), np.array([0, 1, 0, 1]))
    with pytest.raises(UsageError, match="no layer 5") as caught:
        mean_shift(sel, layers=[0, 5])
    assert "0, 3, 7" in str(caught.value)
    with pytest.raises(UsageError, match="no recipe named 'best'"):
        mean_shift(sel, recipe="best")  # type: ignore[arg-type]
    weighted = selection(sel.source, sel.rows, sel.label, weight=np.ones(4, np.float32))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="does not support weights"):
        mean_shift(weighted, recipe="paper")
