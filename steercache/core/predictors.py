"""Numbers of a fit that tell beforehand whether a vector will steer, at one of its layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictors:
    """Vectors steer more reliably where the two sides lie far apart and the training differences point the same way (Braun et
    al. 2025, arXiv 2505.22637).

    `d_prime` is the distance of the sides' held-out means along the direction, in standard deviations;
    `difference_cosine` and `difference_cosine_std` are the mean and the standard deviation of the cosines of the training
    differences with the direction that was fitted without them (`fit.separation`). None: not measured.
    """

    d_prime: float | None
    difference_cosine: float | None
    difference_cosine_std: float | None

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self | None:
        """From diagnostics of a layer, which are free JSON; None where they have none of the numbers."""
        found = {one.name: _number(said.get(one.name)) for one in fields(cls)}
        return cls(**found) if any(value is not None for value in found.values()) else None

    @property
    def cosine_words(self) -> str | None:
        """Cosine of the differences with its spread; None where it was not measured."""
        spread = "" if self.difference_cosine_std is None else f" ± {self.difference_cosine_std:.2f}"
        return None if self.difference_cosine is None else f"{self.difference_cosine:.2f}{spread}"

    def __str__(self) -> str:
        apart = [] if self.d_prime is None else [f"d' {self.d_prime:.2f}"]
        return ", ".join(apart + [f"cosine of differences {words}" for words in [self.cosine_words] if words])


def predictors_at(diagnostics: Sequence[Mapping[str, Any]], layer: int | None) -> Predictors | None:
    """The numbers of one layer out of a vector's diagnostics; None where it was not measured."""
    return next((Predictors.from_json(one) for one in diagnostics if one.get("layer") == layer), None)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return float(value) if is_number else None
