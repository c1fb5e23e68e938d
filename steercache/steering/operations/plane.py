"""The plane that a vector has of its own, in which angular steering turns hidden states (arXiv 2510.26243).

Its directions at all layers are the candidates. The first axis is the candidate with the highest mean cosine to all of them,
the second what the first principal component of the candidates (their mean taken away) adds to it. A principal component has
no sign: the second axis is turned so that the candidates' mean has no negative component along it.
"""

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector


def own_plane(vector: SteeringVector) -> npt.NDArray[np.float32]:
    """An orthonormal basis (2, d) of a vector's own plane, the same at all its layers.

    Raises:
        UsageError: fewer than two directions, one of zeros, or all along one line.
    """
    rows_ld = vector.values.astype(np.float64)
    norms = np.linalg.norm(rows_ld, axis=1)
    hint = "give two vectors: the feature's direction, and one that spans the plane with it"
    if len(rows_ld) < 2 or not norms.all():
        why = "has one direction" if len(rows_ld) < 2 else f"is zero at layer {vector.layers[int(np.argmin(norms))]}"
        raise UsageError(f"{vector.name!r} {why}, so it has no plane of its own", hint=hint)
    unit_ld = rows_ld / norms[:, None]
    first = unit_ld[int(np.argmax((unit_ld @ unit_ld.T).mean(axis=1)))]
    mean = rows_ld.mean(axis=0)
    component = np.linalg.svd(rows_ld - mean, full_matrices=False)[2][0]
    rest = component - (component @ first) * first
    rest -= (rest @ first) * first  # takes away what rounding left
    norm = float(np.linalg.norm(rest))
    if not norm > 1e-6:
        raise UsageError(f"the directions of {vector.name!r} lie along one line, so it has no plane", hint=hint)
    second = rest / norm
    along = float(mean @ second)
    if along < 0 or (along == 0 and second[int(np.argmax(np.abs(second)))] < 0):
        second = -second
    basis_kd: npt.NDArray[np.float32] = np.stack([first, second]).astype(np.float32)
    return basis_kd
