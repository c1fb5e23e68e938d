"""Where on the picture every image token lies: one function per way of laying patches out, by the name in the families' table.

Each returns tile, row and column of the tokens of one picture, in their order, shape (n, 3). Tiles count from 0 within the
picture. Tokens that are not a patch (line ends of LLaVA-NeXT and OneVision, those of Idefics2, which read a whole view) have
row and column -1.
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

    `view` is the height and width of one view in pixels (with the padding that the prompt's other pictures need), `grid` lines
    and columns of patches (Qwen, Gemma 4; (0, 0) elsewhere), `size` height and width of the picture itself, in pixels: as the
    processor reports it (LLaVA-NeXT, OneVision; Pixtral: after resizing), else those of the file. `shapes` is the height and
    width of each view without padding where a mask says so (Idefics2). Nothing of it depends on what the picture shows.
    """

    replacement: str = field(repr=False)
    image_token: str
    view: tuple[int, int] = (0, 0)
    grid: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    shapes: tuple[tuple[int, int], ...] = ()
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


def tile_lines(picture: Picture) -> Coordinates:
    """Llama 4: as Idefics3, lines of tiles parted by marks, then the whole picture once more, small, as the last tile."""
    runs, lines = picture.runs, picture.replacement.count("<|tile_y_separator|>")
    if lines and (len(runs) - 1) % lines:
        raise PatchError(f"{len(runs)} runs of image tokens in {lines} lines of tiles")
    across, parts = (len(runs) - 1) // max(lines, 1), []
    for tile, n in enumerate(runs):
        height, width = _side(n)
        row, col = divmod(tile, across) if tile < len(runs) - 1 else (0, 0)
        parts.append(grid_of(tile, height, width) + np.array([0, row * height, col * width], dtype=np.int32))
    return np.concatenate(parts)


def overlapping(picture: Picture) -> Coordinates:
    """Molmo2: the whole picture small (tile 0), then large (tile 1), as squares of neighbours, line by line."""
    parts = []
    for tile, view in enumerate(re.split("<(?:low_res_)?im_start>", picture.replacement)[1:]):
        n, lines = view.count(picture.image_token), view.count("<im_col>")
        if lines and n % lines:
            raise PatchError(f"{n} image tokens in {lines} lines")
        parts.append(grid_of(tile, *((lines, n // lines) if lines else _side(n))))
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
    """LLaVA-NeXT, OneVision: the whole picture small (tile 0), then large without its padding (tile 1), each line with an end.

    In a prompt of several pictures OneVision reads of each one small view and one end.
    """
    side = _base_side(picture)
    small = grid_of(0, side, side)
    if sum(picture.runs) == len(small) + 1:
        return np.concatenate([small, np.array([[0, -1, -1]], dtype=np.int32)])
    height, width = _large_grid(picture, side=side)
    large = grid_of(1, height, width + 1)
    large[large[:, 2] == width, 1:] = -1
    return np.concatenate([small, large])


def _base_side(picture: Picture) -> int:
    """Lines of patches in one view."""
    n = getattr(picture.processor, "num_image_tokens", None)  # OneVision; LLaVA-NeXT has the size of a patch
    return _side(int(n))[0] if n is not None else picture.view[0] // int(picture.processor.patch_size)


def _large_grid(picture: Picture, *, side: int) -> tuple[int, int]:
    """Lines and columns of the large view: the canvas that fits best, cut to the picture; OneVision scales it to a limit."""
    height, width = picture.size
    processor = picture.processor
    rows, cols = (n * side for n in canvas_views(picture))
    if width / height > cols / rows:
        rows -= (rows - int(round(height * (cols / width), 7))) // 2 * 2
    else:
        cols -= (cols - int(round(width * (rows / height), 7))) // 2 * 2
    most = getattr(processor, "vision_aspect_ratio", None)
    if most is None:
        return rows, cols
    limit = int(most.removeprefix("anyres_max_"))
    ratio = math.sqrt(rows * cols / (limit * side**2))
    return (int(rows // ratio), int(cols // ratio)) if ratio > 1.1 else (rows, cols)


def lines(picture: Picture) -> Coordinates:
    """Pixtral, Mistral 3: one view of any shape; every run of tokens is one of its lines, a mark follows each."""
    runs = picture.runs
    if len(set(runs)) != 1:
        raise PatchError(f"lines of {min(runs, default=0)} to {max(runs, default=0)} image tokens")
    return grid_of(0, len(runs), runs[0])


def crops(picture: Picture) -> Coordinates:
    """InternVL, Aya Vision: tiles row by row, then the whole picture once more, small, as the last tile.

    Rows and columns of the tiles count over the whole picture, those of the last tile within it. A picture of one tile is
    that tile alone.
    """
    n_each = int(getattr(picture.processor, "image_seq_length", 0)) or picture.runs[0]
    height, width = _side(n_each)
    return crop_places(picture, sum(picture.runs) // n_each, (height, width))


def crop_places(picture: Picture, n_views: int, shape: tuple[int, int]) -> Coordinates:
    """Places of a picture cut into `n_views - 1` tiles of `shape` patches; the last view, or a single one, shows it whole."""
    height, width = shape
    n_cols = _crop_columns(picture, n_views - 1) if n_views > 1 else 1
    parts = [
        grid_of(tile, height, width)
        + np.array([0, tile // n_cols * height, tile % n_cols * width], dtype=np.int32) * (tile < n_views - 1)
        for tile in range(n_views)
    ]
    return np.concatenate(parts).astype(np.int32)


def _crop_columns(picture: Picture, n_tiles: int) -> int:
    """Of the ways to lay out the tiles, the one whose shape is closest to the picture's; between equals, the narrower for a
    picture of at most half the tiles' pixels, else the wider."""
    height, width = picture.size
    fitting = [n for n in range(1, n_tiles + 1) if n_tiles % n == 0]
    distance = {n: abs(width / height - n / (n_tiles // n)) for n in fitting}
    closest = [n for n in fitting if distance[n] == min(distance.values())]
    return closest[-1 if height * width > 0.5 * picture.view[0] * picture.view[1] * n_tiles else 0]


def resampled(picture: Picture) -> Coordinates:
    """Idefics2: tokens of a view that each read all of it (a perceiver's latents), so that none has a row or column."""
    tile = np.repeat(np.arange(len(picture.runs), dtype=np.int32), picture.runs)
    return np.stack([tile, np.full_like(tile, -1), np.full_like(tile, -1)], axis=1)


def canvas_views(picture: Picture) -> tuple[int, int]:
    """Views down and across in which the canvas of LLaVA-NeXT and OneVision for this picture is cut."""
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
    "square_lines": square,
    "tile_lines": tile_lines,
    "overlapping": overlapping,
    "anyres": anyres,
    "lines": lines,
    "crops": crops,
    "resampled": resampled,
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
