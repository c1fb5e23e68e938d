"""Activations of an SAE's features, sparse: which features fire in which rows, and how strongly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureActs:
    """Features of n rows in compressed sparse row form; a feature that is not stored is zero.

    Row i has the features `indices[indptr[i]:indptr[i + 1]]`, ascending and each once, with the activations in the same
    part of `values`. Shapes: `indptr` (n + 1,) int64, `indices` (nnz,) int32, `values` (nnz,) float32.

    >>> acts = FeatureActs.from_dense(np.array([[0, 2, 0], [0, 0, 0], [1, 0, 3]], dtype=np.float32))
    >>> acts.indptr.tolist(), acts.indices.tolist(), acts.values.tolist()
    ([0, 1, 1, 3], [1, 0, 2], [2.0, 1.0, 3.0])
    """

    indptr: Ints
    indices: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    n_features: int

    def __post_init__(self) -> None:
        if self.indptr.dtype != np.int64 or self.indices.dtype != np.int32 or self.values.dtype != np.float32:
            raise ValueError(f"dtypes {self.indptr.dtype}, {self.indices.dtype}, {self.values.dtype}")
        if self.indptr.ndim != 1 or self.indices.ndim != 1 or self.indices.shape != self.values.shape:
            raise ValueError(f"shapes {self.indptr.shape}, {self.indices.shape}, {self.values.shape}")
        if not len(self.indptr) or self.indptr[0] != 0 or self.indptr[-1] != len(self.indices):
            raise ValueError("indptr does not span the stored activations")

    @classmethod
    def from_dense(cls, acts_ns: npt.NDArray[np.float32]) -> "FeatureActs":
        """The entries of a dense array (n, s) that are not zero."""
        row, feature = np.nonzero(acts_ns)
        indptr = np.zeros(len(acts_ns) + 1, dtype=np.int64)
        np.cumsum(np.bincount(row, minlength=len(acts_ns)), out=indptr[1:])
        values = acts_ns[row, feature].astype(np.float32, copy=False)
        return cls(indptr=indptr, indices=feature.astype(np.int32), values=values, n_features=acts_ns.shape[1])

    @classmethod
    def from_triples(
        cls, row: Ints, feature: npt.NDArray[Any], value: npt.NDArray[Any], *, n_rows: int, n_features: int
    ) -> "FeatureActs":
        """From (row, feature, value) in any order, each pair once; `row` counts from 0."""
        by_feature = stable_order(feature, n_features)
        order = by_feature[stable_order(np.asarray(row)[by_feature], n_rows)]
        indptr = np.zeros(n_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(row, minlength=n_rows), out=indptr[1:])
        return cls(
            indptr=indptr,
            indices=np.asarray(feature)[order].astype(np.int32, copy=False),
            values=np.asarray(value)[order].astype(np.float32, copy=False),
            n_features=n_features,
        )

    @classmethod
    def concatenate(cls, parts: "Sequence[FeatureActs]") -> "FeatureActs":
        """The rows of all parts, one part after the other. Raises ValueError for no parts or unequal feature counts."""
        if len({part.n_features for part in parts}) != 1:
            raise ValueError("parts of different SAEs, or none")
        starts = np.cumsum([0, *(part.nnz for part in parts)])
        indptr = [part.indptr[1:] + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            indptr=np.concatenate([np.zeros(1, dtype=np.int64), *indptr]),
            indices=np.concatenate([part.indices for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            n_features=parts[0].n_features,
        )

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        l0 = self.nnz / max(self.n_rows, 1)
        return f"<FeatureActs: {self.n_rows:,} rows of {self.n_features:,} features, {l0:.1f} firing per row>"

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Number of stored activations."""
        return len(self.indices)

    @property
    def l0(self) -> Ints:
        """Number of features that fire in each row, shape (n,)."""
        return np.diff(self.indptr)

    @property
    def row_of_entry(self) -> Ints:
        """The row, from 0, of every stored activation, shape (nnz,)."""
        return np.repeat(np.arange(self.n_rows, dtype=np.int64), self.l0)

    def dense(self) -> npt.NDArray[np.float32]:
        """All activations, shape (n, s)."""
        out = np.zeros((self.n_rows, self.n_features), dtype=np.float32)
        out[self.row_of_entry, self.indices] = self.values
        return out

    def rows(self, take: slice | npt.NDArray[Any]) -> "FeatureActs":
        """Some of the rows, in the order of `take`: a slice, row numbers (m,) or a mask (n,)."""
        at = np.arange(self.n_rows, dtype=np.int64)[take]
        lengths = self.l0[at]
        indptr = np.zeros(len(at) + 1, dtype=np.int64)
        np.cumsum(lengths, out=indptr[1:])
        # entry j of output row i lies at indptr_old[at[i]] + (j - indptr_new[i])
        entry = np.arange(indptr[-1], dtype=np.int64) + np.repeat(self.indptr[at] - indptr[:-1], lengths)
        return FeatureActs(
            indptr=indptr, indices=self.indices[entry], values=self.values[entry], n_features=self.n_features
        )

    def of(self, feature: int) -> npt.NDArray[np.float32]:
        """Activations of one feature in every row, shape (n,). Raises IndexError where there is no such feature."""
        if not 0 <= feature < self.n_features:
            raise IndexError(f"feature {feature} of {self.n_features}")
        out = np.zeros(self.n_rows, dtype=np.float32)
        fires = self.indices == feature
        out[self.row_of_entry[fires]] = self.values[fires]
        return out

    def firing_counts(self) -> Ints:
        """Number of rows in which each feature fires, shape (s,)."""
        counts: Ints = np.bincount(self.indices, minlength=self.n_features).astype(np.int64, copy=False)
        return counts

    def sums(self) -> npt.NDArray[np.float64]:
        """Sum of each feature's activations over all rows, shape (s,)."""
        sums: npt.NDArray[np.float64] = np.bincount(
            self.indices, weights=self.values.astype(np.float64), minlength=self.n_features
        ).astype(np.float64, copy=False)
        return sums


def stable_order(keys: npt.NDArray[Any], n_keys: int) -> npt.NDArray[np.intp]:
    """Where to take each entry from so that `keys`, whole numbers in [0, n_keys), ascend; equal ones keep their order.

    numpy sorts 16-bit numbers by counting, some twenty times as fast as others: wider keys are sorted by their lower halves
    first.

    >>> stable_order(np.array([70_000, 2, 70_000, 1]), 80_000).tolist()
    [3, 1, 0, 2]
    """
    order = np.argsort(keys.astype(np.uint16), kind="stable")  # the lowest 16 bits
    for shift in range(16, max(n_keys - 1, 0).bit_length(), 16):
        order = order[np.argsort((keys[order] >> shift).astype(np.uint16), kind="stable")]
    return order
