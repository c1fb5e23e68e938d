"""The words and colours of the scenes: every name is one token (after a space) in the tokenizers of the zoo."""

from typing import Final

SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "heart", "diamond", "moon")
COLOURS: Final = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")

RGB: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 32, 36),
    "green": (30, 150, 60),
    "blue": (36, 80, 215),
    "yellow": (245, 218, 40),
    "purple": (140, 50, 170),
    "orange": (245, 130, 20),
    "black": (18, 18, 18),
    "white": (250, 250, 250),
}


def plural(shape: str) -> str:
    """The shape's word for several of them."""
    return shape + ("es" if shape.endswith("s") else "s")
