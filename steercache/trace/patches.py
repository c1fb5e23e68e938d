"""Where on the picture every image token lies: one function per way of laying patches out, by the name in the families' table.

Each returns tile, row and column of the tokens of one picture, in their order, shape (n, 3). Tiles count from 0 within the
picture. Tokens that are not a patch (the line ends of LLaVA-OneVision) have row and column -1.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Coordinates = npt.NDArray[np.int32]


class PatchError(Exception):
    """The image tokens do not lie as the family's row says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of a prompt: its placeholder string, and the result of the image processor.

    `view` is the height and width of one view in pixels, `grid` lines and columns of patches (Qwen, Gemma 4), `size` height and
    width of the picture itself (OneVision); (0, 0) where the processor does not say. Nothing of it depends on what the picture
    shows.
    """

    replacement: str = field(repr=False)
    image_token: str
    view: tuple[int, int] = (0, 0)
    grid: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    processor: Any = field(repr=False)
    places: dict[str, Coordinates] = field(repr=False, compare=False, default_factory=dict)  # by layout, once known

    @property
    def runs(self) -> list[int]:
        """Lengths of the unbroken runs of image tokens."""
        token = re.escape(self.image_token)
        return [len(run) // len(self.image_token) for run in re.findall(f"(?:{token})+", self.replacement)]


def square(picture: Picture) -> Coordinates:
    """Every run of tokens is one square view, row by row. (Gemma 3's processor makes crops as well where its
    caller asks for pan and scan; its default, which transformers takes whatever the checkpoint says, does not.)"""
    return np.concatenate([grid_of(tile, *_side(n)) for tile, n in enumerate(picture.runs)])


def tiles(picture: Picture) -> Coordinates:
    """Idefics3: tiles row by row, then the whole picture once more, small, as the last tile.

    Rows and columns of the tiles count over the whole picture, those of the last tile within it.
    """
    tags = re.findall(r"<row_(\d+)_col_(\d+)>", picture.replacement)
    runs = picture.runs
    if len(runs) != len(tags) + 1:
        raise PatchError(f"{len(runs)} runs of image tokens, {len(tags)} tiles")
    parts = []
    for tile, n in enumerate(runs):
        height, width = _side(n)
        row, col = (int(tags[tile][0]) - 1, int(tags[tile][1]) - 1) if tile < len(tags) else (0, 0)
        parts.append(grid_of(tile, height, width) + np.array([0, row * height, col * width], dtype=np.int32))
    return np.concatenate(parts)


def merged(picture: Picture) -> Coordinates:
    """Qwen-VL: a grid of any shape, of which `merge_size` squared neighbours make one token."""
    height, width = picture.grid
    merge = int(picture.processor.image_processor.merge_size)
    return grid_of(0, height // merge, width // merge)


def pooled(picture: Picture) -> Coordinates:
    """Gemma 4: a grid of any shape, of which `pooling_kernel_size` squared neighbours make one token."""
    height, width = picture.grid
    side = int(picture.processor.image_processor.pooling_kernel_size)
    return grid_of(0, height // side, width // side)


def anyres(picture: Picture) -> Coordinates:
    """LLaVA-OneVision: the whole picture small (tile 0), then large without its padding (tile 1), each line with an end.

    In a prompt of several pictures each is one small view and one end.
    """
    base, total = int(picture.processor.num_image_tokens), sum(picture.runs)
    small = grid_of(0, *_side(base))
    if total == base + 1:
        return np.concatenate([small, np.array([[0, -1, -1]], dtype=np.int32)])
    height, width = _large_grid(picture, side=math.isqrt(base))
    large = grid_of(1, height, width + 1)
    large[large[:, 2] == width, 1:] = -1
    return np.concatenate([small, large])


def _large_grid(picture: Picture, *, side: int) -> tuple[int, int]:
    """Lines and columns of OneVision's large view: the canvas that fits best, cropped to the picture, scaled to the limit."""
    height, width = picture.size
    processor = picture.processor
    rows, cols = (n * side for n in canvas_views(picture))
    if width / height > cols / rows:
        rows -= (rows - int(round(height * (cols / width), 7))) // 2 * 2
    else:
        cols -= (cols - int(round(width * (rows / height), 7))) // 2 * 2
    limit = int(processor.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(rows * cols / (limit * side**2))
    return (int(rows // ratio), int(cols // ratio)) if ratio > 1.1 else (rows, cols)


def canvas_views(picture: Picture) -> tuple[int, int]:
    """Views down and across in which OneVision's canvas for this picture is cut."""
    canvas = _best_canvas(*picture.size, picture.processor.image_processor.image_grid_pinpoints)
    return canvas[0] // picture.view[0], canvas[1] // picture.view[1]


def _best_canvas(height: int, width: int, canvases: list[tuple[int, int]]) -> tuple[int, int]:
    """The canvas that keeps most of the picture's pixels, and of those the smallest."""

    def kept(canvas: tuple[int, int]) -> tuple[int, int]:
        scale = min(canvas[0] / height, canvas[1] / width)
        pixels = min(int(height * scale) * int(width * scale), height * width)
        return pixels, pixels - canvas[0] * canvas[1]

    return max(((int(h), int(w)) for h, w in canvases), key=kept)


def _side(n: int) -> tuple[int, int]:
    side = math.isqrt(n)
    if side * side != n:
        raise PatchError(f"{n} image tokens are no square")
    return side, side


def grid_of(tile: int, height: int, width: int) -> Coordinates:
    """Places of one tile row by row, shape (height * width, 3)."""
    row, col = np.divmod(np.arange(height * width, dtype=np.int32), np.int32(max(width, 1)))
    return np.stack([np.full_like(row, tile), row, col], axis=1)


PATCHES: dict[str, Callable[[Picture], Coordinates]] = {
    "square": square,
    "tiles": tiles,
    "merged": merged,
    "downsampled": merged,
    "pooled": pooled,
    "anyres": anyres,
}


def locate(layout: str, picture: Picture) -> Coordinates:
    """Tile, row and column of every image token of one picture, shape (n, 3).

    Raises:
        PatchError: they are not as many as the layout has places.
    """
    if layout not in picture.places:
        found = PATCHES[layout](picture)
        if len(found) != sum(picture.runs):
            raise PatchError(f"{sum(picture.runs)} image tokens, {len(found)} places on the picture")
        picture.places[layout] = found
    return picture.places[layout]
