"""Whether a vector's model is the one it is added to, its backbone, or another: by the content of weights, not by name."""

from typing import Literal, Protocol

from steercache.core.vectors import FittedOn

Lineage = Literal["own", "backbone", "foreign", "unknown"]


class KnownModel(Protocol):
    """What of a model, in memory or in a run's document, its vectors are compared with."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def kin(self) -> tuple[str, ...]: ...
    @property
    def backbone(self) -> str | None: ...
    @property
    def backbone_fingerprints(self) -> tuple[str, ...]: ...


def lineage_of(fitted_on: FittedOn | None, spec: KnownModel) -> Lineage:
    """Where a vector was fitted, seen from the model: on its own weights, on its backbone's, on others.

    "unknown": the vector does not say, or it names the model's backbone, whose weights are not on this machine to compare.
    """
    if fitted_on is None:
        return "unknown"
    if fitted_on.fingerprint in (spec.fingerprint, *spec.kin):
        return "own"
    if fitted_on.fingerprint in spec.backbone_fingerprints:
        return "backbone"
    return "unknown" if not spec.backbone_fingerprints and fitted_on.name == spec.backbone else "foreign"


def why_not_own(fitted_on: FittedOn | None, spec: KnownModel) -> str:
    """What is wrong with a vector of foreign or unknown lineage, as the rest of a sentence about it."""
    if fitted_on is None:
        return "does not say its origin"
    if fitted_on.name == spec.backbone and not spec.backbone_fingerprints:
        return f"is of {fitted_on.name}, which cannot be compared with the backbone of {spec.name}: it is not on this machine"
    if fitted_on.name in (spec.name, spec.backbone):
        return f"was fitted on other weights of the name {fitted_on.name}: they were replaced since, or are another model's"
    return f"comes from a model that this one does not descend from: {fitted_on.name}, not {spec.name}"
