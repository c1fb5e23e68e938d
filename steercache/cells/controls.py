"""Directions that are not the concept: what a real vector has to beat.

Four kinds, each as SteeringVectors with provenance, the same from the same seed: `covariance` (matched to the spread of the
rows), `label_shuffled` (the same fit on shuffled labels), `other_concept`, and `random` (isotropic); and for vectors of an SAE
those of `sae.controls`. All are brought to the real vector's norm at every layer, so that a strength means the same. They are
given the same selection of layer and strength as the real vector; which cell wins for a control is the caller's to find by the
same search.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.ids import digest_bytes
from steercache.core.trials import CONTROL_KINDS, ControlKind
from steercache.core.vectors import SteeringVector
from steercache.sae.controls import ControlDirection

Float32Array = npt.NDArray[np.float32]
Rows = Callable[
    [int], npt.NDArray[Any]
]  # layer -> rows of shape (n, d), the same rows in the same order at every layer
Labels = npt.NDArray[np.int8]
Refit = Callable[[Labels], SteeringVector]


def covariance_controls(
    vec: SteeringVector, rows: Rows, *, count: int = 20, seed: int = 0
) -> tuple[SteeringVector, ...]:
    """Directions drawn from the normal distribution that has the rows' covariance, layer by layer.

    A draw is a random weighting of the centred rows (its covariance is the rows', without forming a d x d matrix); the same
    weighting is used at every layer, as a fitted vector weighs the same rows everywhere. The rows are in the provenance by
    digest.

    Raises:
        UsageError: fewer than two rows, rows of another width, or not the same number at every layer.
    """
    _check_count(count)
    n_rows: int | None = None
    weights_kn: npt.NDArray[np.float64] | None = None
    values = np.empty((count, len(vec.layers), vec.hidden_size), dtype=np.float32)
    parts = []
    for pos, layer in enumerate(vec.layers):
        rows_nd = np.asarray(rows(layer))
        if rows_nd.ndim != 2 or rows_nd.shape[1] != vec.hidden_size or len(rows_nd) < 2:
            raise UsageError(f"rows of shape {rows_nd.shape} at layer {layer} for a vector of width {vec.hidden_size}")
        if n_rows is None or weights_kn is None:
            n_rows = len(rows_nd)
            weights_kn = np.stack([_generator("covariance", seed, k).standard_normal(n_rows) for k in range(count)])
        if len(rows_nd) != n_rows:
            raise UsageError(f"{len(rows_nd)} rows at layer {layer}, {n_rows} at layer {vec.layers[0]}")
        parts.append(np.ascontiguousarray(rows_nd).tobytes())
        centred_nd = rows_nd.astype(np.float64)
        centred_nd -= centred_nd.mean(axis=0)
        values[:, pos] = weights_kn @ centred_nd
    extra = {"control_rows": digest_bytes(*parts), "control_n_rows": n_rows}
    return tuple(_control(vec, values[k], "covariance", seed=seed, index=k, extra=extra) for k in range(count))


def random_controls(vec: SteeringVector, *, count: int = 20, seed: int = 0) -> tuple[SteeringVector, ...]:
    """Directions without any structure: independent normal entries at every layer, at the vector's norms."""
    _check_count(count)
    shape = vec.values.shape
    draws = (_generator("random", seed, k).standard_normal(shape).astype(np.float32) for k in range(count))
    return tuple(_control(vec, values, "random", seed=seed, index=k) for k, values in enumerate(draws))


def shuffled_controls(
    vec: SteeringVector,
    labels: Labels,
    refit: Refit,
    *,
    groups: npt.NDArray[Any] | None = None,
    count: int = 20,
    seed: int = 0,
) -> tuple[SteeringVector, ...]:
    """The vector's own fit on shuffled labels; with `groups` (sentences), labels change places only within a group.

    Raises:
        UsageError: labels that cannot be shuffled into others, or a refit of other layers or width.
    """
    _check_count(count)
    controls = []
    for k, shuffled in enumerate(shuffles(labels, groups, count=count, seed=seed)):
        fitted = refit(shuffled)
        if fitted.layers != vec.layers or fitted.hidden_size != vec.hidden_size:
            raise UsageError(f"the refit has layers {fitted.layers}, width {fitted.hidden_size}; the vector has others")
        extra = {"control_refit": fitted.vector_id, "control_within_groups": groups is not None}
        controls.append(_control(vec, fitted.values, "label_shuffled", seed=seed, index=k, extra=extra))
    return tuple(controls)


def shuffles(labels: Labels, groups: npt.NDArray[Any] | None = None, *, count: int, seed: int = 0) -> Iterator[Labels]:
    """`count` shuffled copies of the labels, shape (n,), each with as many ones (in every group) as before.

    Raises:
        UsageError: no group holds both labels, so that every shuffle is the same.
    """
    labels = np.asarray(labels, dtype=np.int8)
    index = np.zeros(len(labels), dtype=np.intp)
    if groups is not None:
        if len(groups) != len(labels):
            raise UsageError(f"{len(groups)} groups for {len(labels)} labels")
        _, index = np.unique(groups, return_inverse=True)
    if not any(np.ptp(labels[index == g]) for g in range(int(index.max(initial=-1)) + 1)):
        raise UsageError("no group holds both labels: there is no labels to permute", hint="leave the groups out")
    for k in range(count):
        rng = _generator("label_shuffled", seed, k)
        # rows in order of (group, old place) take labels in order of (group, random key)
        source = np.lexsort((rng.random(len(labels)), index))
        target = np.argsort(index, kind="stable")
        shuffled = np.empty_like(labels)
        shuffled[target] = labels[source]
        yield shuffled


def concept_controls(vec: SteeringVector, others: Sequence[SteeringVector]) -> tuple[SteeringVector, ...]:
    """Vectors of other concepts at this vector's layers and norms; those of the same concept are left out.

    Raises:
        UsageError: another width, a layer missing, or nothing left.
    """
    controls: list[SteeringVector] = []
    for other in others:
        if other.concept == vec.concept:
            continue
        missing = sorted(set(vec.layers) - set(other.layers))
        if missing or other.hidden_size != vec.hidden_size or other.site != vec.site:
            raise UsageError(
                f"{other.name} has width {other.hidden_size} at {other.site} and lacks layers {missing}",
                place=vec.name,
                hint="fit the other concepts on the same run",
            )
        values = np.stack([other.at(layer) for layer in vec.layers])
        extra = {"control_vector": other.vector_id, "control_concept": other.concept}
        controls.append(_control(vec, values, "other_concept", seed=None, index=len(controls), extra=extra))
    if not controls:
        raise UsageError("no vector of another concept was given", place=vec.name, hint="fit another concept first")
    return tuple(controls)


def sae_controls(
    vec: SteeringVector, kind: ControlKind, made: Sequence[ControlDirection], *, seed: int
) -> tuple[SteeringVector, ...]:
    """Controls of an SAE vector from their directions, in order; the features that they are made of are in the provenance."""
    return tuple(
        _control(
            vec,
            one.values,
            kind,
            seed=seed,
            index=k,
            extra={"control_features": {str(layer): list(features) for layer, features in one.features.items()}},
        )
        for k, one in enumerate(made)
    )


def _control(
    vec: SteeringVector,
    values: npt.NDArray[Any],
    kind: ControlKind,
    *,
    seed: int | None,
    index: int,
    extra: Mapping[str, Any] | None = None,
) -> SteeringVector:
    provenance = {
        "control_kind": kind,
        "control_seed": seed,
        "control_index": index,
        "control_of": vec.vector_id,
        **(extra or {}),
    }
    return replace(
        vec,
        name=f"{vec.name}~{kind}-{index}",
        method=f"control:{kind}",
        values=_at_norms(values, vec.norms),
        provenance=provenance,
        diagnostics=(),
    )


def _at_norms(values: npt.NDArray[Any], norms: Float32Array) -> Float32Array:
    """Rows scaled to the norms given. Raises UsageError for a direction of length 0."""
    exact = np.asarray(values, dtype=np.float64)
    lengths = np.linalg.norm(exact, axis=1)
    if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
        raise UsageError("a control direction is zero or holds NaN")
    scaled: Float32Array = (exact * (norms.astype(np.float64) / lengths)[:, None]).astype(np.float32)
    return scaled


def _generator(kind: ControlKind, seed: int, index: int) -> np.random.Generator:
    """A stream of its own for every control: the tenth is the same whether ten or twenty are made."""
    return np.random.default_rng([seed, CONTROL_KINDS.index(kind), index])


def _check_count(count: int) -> None:
    if count < 1:
        raise UsageError(f"{count} controls were asked for", hint="20 or more make a test at the 5 % level")
