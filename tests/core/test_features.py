"""Sparse activations against the dense array that they stand for."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steercache.core.features import FeatureActs

dense_arrays = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 6), st.integers(1, 7)), elements=st.sampled_from([0.0, 0.0, 0.5, 2.0, -1.0])
)


@given(dense_arrays)
def test_every_reading_of_sparse_activations_is_that_of_the_dense_array(dense: npt.NDArray[np.float32]) -> None:
    acts = FeatureActs.from_dense(dense)
    assert np.array_equal(acts.dense(), dense)
    assert np.array_equal(acts.l0, (dense != 0).sum(axis=1))
    assert np.array_equal(acts.firing_counts(), (dense != 0).sum(axis=0))
    assert np.allclose(acts.sums(), dense.sum(axis=0))
    for feature in range(dense.shape[1]):
        assert np.array_equal(acts.of(feature), dense[:, feature])


@given(dense_arrays, st.data())
def test_rows_are_taken_in_any_order_and_more_than_once(dense: npt.NDArray[np.float32], data: st.DataObject) -> None:
    acts = FeatureActs.from_dense(dense)
    n_rows = len(dense)
    at = data.draw(st.lists(st.integers(0, n_rows - 1), max_size=9)) if n_rows else []
    take = np.array(at, dtype=np.int64)
    assert np.array_equal(acts.rows(take).dense(), dense[take])
    assert np.array_equal(acts.rows(slice(1, 4)).dense(), dense[1:4])
    mask = np.arange(n_rows) % 2 == 0
    assert np.array_equal(acts.rows(mask).dense(), dense[mask])


@given(dense_arrays, st.integers(0, 6))
def test_parts_and_shuffled_triples_give_the_whole(dense: npt.NDArray[np.float32], cut: int) -> None:
    acts = FeatureActs.from_dense(dense)
    parts = [FeatureActs.from_dense(dense[:cut]), FeatureActs.from_dense(dense[cut:])]
    shuffled = np.random.default_rng(cut).permutation(acts.nnz)
    again = FeatureActs.from_triples(
        acts.row_of_entry[shuffled],
        acts.indices[shuffled],
        acts.values[shuffled],
        n_rows=acts.n_rows,
        n_features=acts.n_features,
    )
    for other in (FeatureActs.concatenate(parts), again):
        assert np.array_equal(other.indptr, acts.indptr)
        assert np.array_equal(other.indices, acts.indices)
        assert np.array_equal(other.values, acts.values)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    acts = FeatureActs.from_dense(np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="span"):
        FeatureActs(indptr=acts.indptr[:-1], indices=acts.indices, values=acts.values, n_features=3)
    with pytest.raises(ValueError, match="dtypes"):
        FeatureActs(indptr=acts.indptr, indices=acts.indices, values=acts.values.astype(np.float64), n_features=3)
    with pytest.raises(ValueError, match="different"):
        FeatureActs.concatenate([acts, FeatureActs.from_dense(np.eye(2, dtype=np.float32))])
    with pytest.raises(IndexError):
        acts.of(3)
