"""What a picture holds and where: items with a shape, a colour and a place, drawn from a random generator.

Places are fractions of the picture's side, x to the right and y downwards. In the easy set no two items are closer than
MIN_GAP on both axes, so that each has a cell of its own on a 5 x 5 grid.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steercache.data.scenes.difficulty import EASY, Difficulty
from steercache.data.scenes.palette import COLOURS, SHAPES

MIN_GAP = 0.22  # larger of the distances in x and y between two items
MARGIN = 0.12  # from an item's centre to the border


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneItem:
    """One drawn thing: `x`, `y`, `radius` in fractions of the side, `angle` in degrees, `tone` a shift of its RGB values."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float
    tone: tuple[int, int, int] = (0, 0, 0)
    hollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    """A short line on the ground that no question is about: its ends in fractions of the side, its RGB values."""

    ends: tuple[float, float, float, float]
    rgb: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A picture before it is drawn; `background` holds the RGB values of its upper and its lower (or left and right) edge.

    `fade` is the share of the ground's colour in every item's, `asked_distance` the least and the greatest distance of two
    items (of the side) along the axis that a relation is asked about.
    """

    items: tuple[SceneItem, ...]
    background: tuple[tuple[int, int, int], tuple[int, int, int]]
    sideways: bool = False
    striped: bool = False
    shifted: bool = False
    fade: float = 0.0
    strokes: tuple[Stroke, ...] = ()
    asked_distance: tuple[float, float] = EASY.asked_distance

    def of_shape(self, shape: str) -> tuple[SceneItem, ...]:
        """The items of one shape."""
        return tuple(item for item in self.items if item.shape == shape)

    def unique_shapes(self) -> tuple[SceneItem, ...]:
        """The items that their shape's word alone names."""
        return tuple(item for item in self.items if len(self.of_shape(item.shape)) == 1)

    def unique_colours(self) -> tuple[SceneItem, ...]:
        """The items that their colour's word alone names."""
        colours = [item.colour for item in self.items]
        return tuple(item for item in self.items if colours.count(item.colour) == 1)


def make_pairs(rng: np.random.Generator, *, shifted: bool = False, difficulty: Difficulty = EASY) -> Scene:
    """Two to four items (more where `difficulty` says so) of different shapes and colours: for relation, colour and shape."""
    n = int(rng.integers(2, 5)) + difficulty.n_more_objects
    shapes = [str(s) for s in rng.choice(SHAPES, n, replace=False)]
    colours = [str(c) for c in rng.choice(COLOURS, n, replace=False)]
    return _scene(rng, list(zip(shapes, colours, strict=True)), shifted=shifted, difficulty=difficulty)


def make_crowd(rng: np.random.Generator, *, shifted: bool = False, difficulty: Difficulty = EASY) -> Scene:
    """One to five items of one shape among up to two (or more) of other shapes: for counting. The counted shape comes first."""
    n_target, n_other = int(rng.integers(1, 6)), int(rng.integers(0, 3)) + difficulty.n_more_objects
    target, *others = [str(s) for s in rng.choice(SHAPES, 1 + n_other, replace=False)]
    colours = [str(c) for c in rng.choice(COLOURS, n_target + n_other)]
    names = list(zip([target] * n_target + others, colours, strict=True))
    return _scene(rng, names, shifted=shifted, difficulty=difficulty)


def _scene(rng: np.random.Generator, names: list[tuple[str, str]], *, shifted: bool, difficulty: Difficulty) -> Scene:
    places_n2 = _places(rng, len(names), gap=MIN_GAP * difficulty.gap_factor)
    scale = 1 - 0.5 * difficulty.size
    items = tuple(
        SceneItem(
            shape=shape,
            colour=colour,
            x=float(x),
            y=float(y),
            radius=scale * float(rng.uniform(0.085, 0.12) if not shifted else rng.uniform(0.075, 0.13)),
            angle=float(rng.uniform(-12, 12) if not shifted else rng.uniform(-25, 25)),
            tone=_triple(rng.integers(-18, 19, 3)),
            hollow=bool(shifted and rng.random() < 0.5),
        )
        for (shape, colour), (x, y) in zip(names, places_n2, strict=True)
    )
    base = rng.integers(80, 130, 3) if shifted else rng.integers(150, 206, 3)
    edges = (_triple(base), _triple(base + rng.integers(-14, 15, 3)))
    sideways = bool(rng.random() < 0.5)
    return Scene(
        items=items,
        background=edges,
        sideways=sideways,
        striped=shifted,
        shifted=shifted,
        fade=0.8 * difficulty.palette,
        strokes=tuple(_stroke(rng) for _ in range(difficulty.n_strokes)),
        asked_distance=difficulty.asked_distance,
    )


def _stroke(rng: np.random.Generator) -> Stroke:
    x, y = (float(value) for value in rng.uniform(0, 1, 2))
    dx, dy = (float(value) for value in rng.uniform(-0.08, 0.08, 2))
    return Stroke(ends=(x, y, x + dx, y + dy), rgb=_triple(rng.integers(0, 256, 3)))


def _places(rng: np.random.Generator, n: int, *, gap: float) -> npt.NDArray[np.float64]:
    while True:
        places: list[npt.NDArray[np.float64]] = []
        for _ in range(60 * n):
            place = rng.uniform(MARGIN, 1 - MARGIN, 2)
            if all(np.abs(place - other).max() >= gap for other in places):
                places.append(place)
                if len(places) == n:
                    return np.stack(places)


def _triple(values: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in values)
    return r, g, b
