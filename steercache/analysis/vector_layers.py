"""What is known of a sweep's vectors layer by layer: AUC, norm, and how directions lie to each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from steercache.core.errors import SteercacheError
from steercache.core.vectors import SteeringVector
from steercache.queries.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorLayers:
    """One vector: per layer its AUC on held-out rows and its norm over the median norm of the rows (NaN: not measured), and the
    cosine of its direction with that of the layer before (NaN at the first)."""

    name: str
    layers: tuple[int, ...]
    auc: tuple[float, ...]
    norm: tuple[float, ...]
    relative_norm: tuple[float, ...]
    turn: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineCurve:
    """Cosine of two vectors at every layer that both have."""

    names: tuple[str, str]
    layers: tuple[int, ...]
    cosine: tuple[float, ...]


def read_vectors(session: Session, ids: Sequence[str]) -> tuple[list[SteeringVector], list[str]]:
    """The vectors that the cache still has, and a sentence for each that it has not."""
    found, missing = [], []
    for one in ids:
        try:
            found.append(session.vector(one))
        except SteercacheError as error:
            missing.append(f"The vector {one[:12]} cannot be read: {error.message}.")
    return found, missing


def vector_layers(vector: SteeringVector) -> VectorLayers:
    """One vector's numbers by layer, from its values and its diagnostics."""
    said = {int(d["layer"]): d for d in vector.diagnostics if d.get("layer") is not None}

    def diagnostic(layer: int, name: str) -> float:
        value = said.get(layer, {}).get(name)
        return float(value) if isinstance(value, int | float) else float("nan")

    norms = [float(n) for n in vector.norms]
    resid = [diagnostic(layer, "resid_norm") for layer in vector.layers]
    return VectorLayers(
        name=vector.name,
        layers=vector.layers,
        auc=tuple(diagnostic(layer, "auc") for layer in vector.layers),
        norm=tuple(norms),
        relative_norm=tuple(n / r if r > 0 else float("nan") for n, r in zip(norms, resid, strict=True)),
        turn=(float("nan"), *(_cosine(a, b) for a, b in pairwise(vector.values)))[: len(norms)],
    )


def cosine_curves(vectors: Sequence[SteeringVector], *, most: int = 5) -> tuple[CosineCurve, ...]:
    """Cosines of every pair of vectors of one width, at most so many pairs."""
    found: list[CosineCurve] = []
    for a, b in combinations(vectors, 2):
        shared = tuple(layer for layer in a.layers if layer in b.layers)
        if shared and a.hidden_size == b.hidden_size and len(found) < most:
            cosine = tuple(_cosine(a.at(layer), b.at(layer)) for layer in shared)
            found.append(CosineCurve(names=(a.name, b.name), layers=shared, cosine=cosine))
    return tuple(found)


def _cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else float("nan")
