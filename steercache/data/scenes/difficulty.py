"""How hard scenes are: five properties of a picture, each from 0 (what the zoo's models were trained on) to 1."""

import re
from dataclasses import dataclass, fields
from typing import Final, Self

from steercache.core.errors import UsageError

_NUMBER: Final = r"\d+(?:\.\d+)?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """The dial of `scenes`, a number in [0, 1] for each property; at 0 everywhere the pictures are those of the easy set."""

    objects: float = 0.0
    """Up to three additional objects in the picture."""
    distance: float = 0.0
    """Smaller distances between objects. At 1 the smallest gap is half as large, and a relation is asked only about two objects
    that lie between .06 and .24 of the picture's side apart, measured along the axis of the relation."""
    size: float = 0.0
    """Smaller objects: at 1 half the radius."""
    palette: float = 0.0
    """Less contrast: at 1 colours are mixed with four fifths of the ground's."""
    clutter: float = 0.0
    """Short strokes without a name strewn over the ground: at 1 forty of them."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:  # NaN as well
                raise UsageError(f"the difficulty of scenes is a number from 0 to 1, {field.name} is {value}")

    @classmethod
    def of(cls, level: float) -> Self:
        """The same level of every property."""
        return cls(**{field.name: float(level) for field in fields(cls)})

    @property
    def label(self) -> str:
        """How sets are told apart by name: "" for the easy set, `-level0.5` for one level, else `-objects0.5-distance1`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if len(set(values.values())) == 1:
            (level,) = set(values.values())
            return f"-level{level:g}" if level else ""
        return "".join(f"-{name}{value:g}" for name, value in values.items() if value)

    @classmethod
    def of_label(cls, label: str) -> Self:
        """The difficulty that a name says, as `label` writes it.

        Raises:
            UsageError: it says none, or a number that is not from 0 to 1.
        """
        if found := re.fullmatch(rf"-level({_NUMBER})", label):
            return cls.of(float(found[1]))
        names = "|".join(field.name for field in fields(cls))
        if not re.fullmatch(rf"(-({names}){_NUMBER})*", label):
            raise UsageError(
                f"{label!r} is no difficulty of scenes",
                hint="scenes-level0.5 sets all five properties, scenes-objects0.5-distance1 some of: "
                + ", ".join(field.name for field in fields(cls)),
            )
        return cls(**{name: float(value) for name, value in re.findall(rf"-({names})({_NUMBER})", label)})

    @property
    def n_more_objects(self) -> int:
        return round(3 * self.objects)

    @property
    def gap_factor(self) -> float:
        """What the least gap between two objects is multiplied by; more objects need smaller gaps, too."""
        return (1 - 0.5 * self.distance) * (1 - 0.25 * self.objects)

    @property
    def asked_distance(self) -> tuple[float, float]:
        """Least and greatest distance of two objects along the axis that a relation is asked about, of the side."""
        return 0.24 - 0.18 * self.distance, 1 - 0.76 * self.distance

    @property
    def n_strokes(self) -> int:
        return round(40 * self.clutter)


EASY: Final = Difficulty()
