"""A warning where a vector is added to other weights than those that it was fitted on."""

import warnings
from typing import Any

from steercache.core.errors import SteercacheWarning
from steercache.core.lineage import lineage_of, why_not_own
from steercache.core.vectors import SteeringVector
from steercache.models.identity import loaded_fingerprints
from steercache.models.recognise import proven_family
from steercache.models.spec import LoadedModel


class ForeignVectorWarning(SteercacheWarning):
    """A vector is added to a model that it was not fitted on."""


def warn_if_foreign(model: Any, vector: SteeringVector, *, stacklevel: int = 3) -> None:
    """Warn where the vector's model and this one are known and are neither the same nor its backbone.

    `model` is a LoadedModel or a transformers model; of the latter only one from a local folder is known.
    """
    fitted_on = vector.fitted_on
    if fitted_on is None:
        return
    if isinstance(model, LoadedModel):
        if lineage_of(fitted_on, model.spec) not in ("foreign", "unknown"):
            return
        why = why_not_own(fitted_on, model.spec)
    else:
        known = loaded_fingerprints(model)
        grown = fitted_on.modality == "text" and proven_family(model).modality != "text"
        if not known or fitted_on.fingerprint in known or grown:  # a plain model does not say its backbone
            return
        why = f"was fitted on other weights than these: on {fitted_on.name}, as it was when it was traced"
    message = f"the vector {vector.name!r} {why}; what it does here says nothing about the concept"
    warnings.warn(message, ForeignVectorWarning, stacklevel=stacklevel)
