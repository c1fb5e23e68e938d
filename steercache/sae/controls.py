"""Directions that an SAE fit would have to beat: its own pipeline with one part of the SAE replaced by chance.

Each is made for a fitted SAE vector, with as many features per layer as the vector has, and the same from the same seed:

- `sae_random_decoder`: the vector's features, with decoder rows drawn at random (independent normal entries, unit norm).
- `sae_random_encoder`: the same selection on features of a random encoder that fires as many features per row as the SAE does;
  decoder rows of the SAE.
- `sae_permuted_labels`: the vector's features under a permutation of the names of all features that fire on these rows.
- `sae_live_features`: for each of the vector's features another one, drawn among the live ones of the nearest firing rate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.features import FeatureActs
from steercache.core.selection import Selection
from steercache.core.trials import SAE_CONTROL_KINDS, SaeControlKind
from steercache.core.vectors import SteeringVector
from steercache.sae.candidates import Encodes, check_layer, labelled_rows
from steercache.sae.selection import LabelledActs
from steercache.sae.sparse_probe import SELECTIONS
from steercache.sae.vector import features_of, mean_direction

N_NEAREST: Final = 16  # live features of the nearest firing rate that one is drawn among
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlDirection:
    """One control: unit directions (l, d) at the vector's layers, and by layer the features that they are made of."""

    values: FloatArray
    features: dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveLayer:
    """The rows of a fit at one layer: activations (n, d), features, and the SAE's decoder rows (s, d)."""

    layer: int
    x_nd: FloatArray
    rows: LabelledActs
    decoder_sd: FloatArray

    def direction(self, features: Sequence[int]) -> FloatArray:
        """Unit mean of decoder rows, shape (d,)."""
        return mean_direction(self.decoder_sd[list(features)])


class LiveRows:
    """The rows of a vector's fit with the SAE's features at each of its layers, encoded once for all controls."""

    def __init__(self, sel: Selection, saes: Iterable[Encodes], vector: SteeringVector) -> None:
        if sel.label is None:
            raise UsageError("its rows have no labels")
        self.vector = vector
        self._layers: dict[int, LiveLayer] = {}
        for sae in saes:
            layer = check_layer(sel, sae.spec)
            if layer in vector.layers:
                x_nd, rows = sel.gather(layer), labelled_rows(sel, sae)
                self._layers[layer] = LiveLayer(layer=layer, x_nd=x_nd, rows=rows, decoder_sd=sae.decoder)
        lacking = [layer for layer in vector.layers if layer not in self._layers]
        if lacking:
            raise UsageError(f"no SAE of layer {', '.join(map(str, lacking))}", place=vector.name)

    def at(self, layer: int) -> LiveLayer:
        """One of the vector's layers."""
        return self._layers[layer]


def control_direction(rows: LiveRows, kind: SaeControlKind, *, seed: int, index: int) -> ControlDirection:
    """The control number `index` of a kind.

    Raises:
        UsageError: too few features fire on these rows to draw others.
    """
    vector = rows.vector
    values, features = [], {}
    for layer in vector.layers:
        found = rows.at(layer)
        own = features_of(vector, layer)
        rng = np.random.default_rng([seed, SAE_CONTROL_KINDS.index(kind), index, layer])
        if kind == "sae_random_decoder":
            drawn = rng.standard_normal((len(own), found.decoder_sd.shape[1]))
            drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
            values.append(mean_direction(drawn.astype(np.float32)))
            features[layer] = own
            continue
        if kind == "sae_random_encoder":
            taken = _by_random_encoder(found, vector, n=len(own), rng=rng)
        elif kind == "sae_permuted_labels":
            taken = _permuted(found, own, rng)
        else:
            taken = _of_equal_rate(found, own, rng)
        values.append(found.direction(taken))
        features[layer] = taken
    return ControlDirection(values=np.stack(values), features=features)


def shuffled_direction(rows: LiveRows, labels: npt.NDArray[np.int8]) -> ControlDirection:
    """The vector's selection with other labels on the same rows, shape (n,): its best features, as many as the vector has.

    Raises:
        UsageError: no feature is a candidate.
    """
    values, features = [], {}
    for layer in rows.vector.layers:
        found = rows.at(layer)
        relabelled = LabelledActs(acts=found.rows.acts, is_anchor=labels.astype(bool), sentence=found.rows.sentence)
        taken = _best(relabelled, rows.vector, n=len(features_of(rows.vector, layer)), layer=layer)
        values.append(found.direction(taken))
        features[layer] = taken
    return ControlDirection(values=np.stack(values), features=features)


def random_encoding(x_nd: FloatArray, *, n_features: int, l0: int, rng: np.random.Generator) -> FeatureActs:
    """Features of rows (n, d) under a random encoder: the `l0` largest positive projections of each centred row.

    Rows are centred by their mean, as an SAE subtracts its bias: else every row would fire the same features.
    """
    weights = rng.standard_normal((x_nd.shape[1], n_features), dtype=np.float32) / np.sqrt(x_nd.shape[1])
    pre = (x_nd - x_nd.mean(axis=0)) @ weights
    floor = np.partition(pre, n_features - l0, axis=1)[:, n_features - l0, None]
    return FeatureActs.from_dense(np.where((pre >= floor) & (pre > 0), pre, 0).astype(np.float32))


def _by_random_encoder(
    found: LiveLayer, vector: SteeringVector, *, n: int, rng: np.random.Generator
) -> tuple[int, ...]:
    """The best `n` features that the vector's selection picks from a random encoding."""
    acts = found.rows.acts
    l0 = min(acts.n_features, max(1, round(acts.nnz / max(1, acts.n_rows))))
    rows = LabelledActs(
        acts=random_encoding(found.x_nd, n_features=acts.n_features, l0=l0, rng=rng),
        is_anchor=found.rows.is_anchor,
        sentence=found.rows.sentence,
    )
    return _best(rows, vector, n=n, layer=found.layer)


def _best(rows: LabelledActs, vector: SteeringVector, *, n: int, layer: int) -> tuple[int, ...]:
    """The best `n` candidates of the vector's selection on rows that need not have any: where fewer qualify, the next by rank,
    so that a control has as many features as the vector."""
    selection = str((vector.provenance.get("params") or {}).get("selection"))
    if selection not in SELECTIONS:
        raise UsageError(f"{vector.name!r} was selected by {selection!r}, which is no selection here")
    candidates = SELECTIONS[selection](rows)
    if not candidates:
        raise UsageError(f"no feature is a candidate at layer {layer}")
    return tuple(c.feature for c in candidates[:n])


def _live(found: LiveLayer) -> npt.NDArray[np.int64]:
    return np.flatnonzero(found.rows.acts.firing_counts())


def _permuted(found: LiveLayer, own: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """The features under a permutation of the live ones that moves each of them to another."""
    live = np.union1d(_live(found), np.asarray(own))
    if len(live) < 2:
        raise UsageError(f"only one feature fires on these rows at layer {found.layer}")
    order = rng.permutation(live)
    after = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))  # one cycle: nothing stays
    return tuple(after[f] for f in own)


def _of_equal_rate(found: LiveLayer, own: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """For each feature another live one, drawn among the `N_NEAREST` whose firing rate is nearest; none twice."""
    counts = found.rows.acts.firing_counts()
    free = np.setdiff1d(_live(found), np.asarray(own))
    if len(free) < len(own):
        raise UsageError(
            f"{len(free)} other features fire on these rows at layer {found.layer}, and {len(own)} are needed"
        )
    taken = []
    for f in own:
        nearest = free[np.argsort(np.abs(counts[free] - counts[f]), kind="stable")[:N_NEAREST]]
        drawn = int(rng.choice(nearest))
        taken.append(drawn)
        free = free[free != drawn]
    return tuple(taken)
