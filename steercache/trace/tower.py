"""Where on the picture every row of a vision tower's output lies, in the tower's own order: one function per way of laying
patches out, by the name in the families' table.

Each returns tile, row and column of the rows of one picture, shape (n, 3). Tiles are the tower's views, counted from 0 within
the picture; where views are cut from one large picture, rows and columns count over all of it. A class token has row and
column -1.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from steercache.models.family import Family
from steercache.trace.patches import Coordinates, PatchError, Picture, canvas_views, crop_places, grid_of
from steercache.trace.patches import overlapping as image_overlapping
from steercache.trace.patches import pooled as image_tokens
from steercache.trace.patches import square as image_square
from steercache.trace.patches import tile_lines as tile_tokens

Shape = tuple[int, int]  # lines and columns of patches in one view


def square(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """Every view by itself, row by row."""
    return np.concatenate([grid_of(view, *shape) for view in range(len(picture.runs))])


def tiles(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """Idefics3: tiles row by row, counted over the whole picture, then the whole picture once more, small."""
    tags = re.findall(r"<row_(\d+)_col_(\d+)>", picture.replacement)
    starts = [((int(row) - 1) * shape[0], (int(col) - 1) * shape[1]) for row, col in tags] + [(0, 0)]
    parts = [grid_of(tile, *shape) + np.array([0, *start], dtype=np.int32) for tile, start in enumerate(starts)]
    return np.concatenate(parts)


def merged(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """Qwen-VL: squares of `spatial_merge_size` squared neighbours, in 2.5 window by window, as its attention reads them."""
    vision = config.vision_config
    merge = int(vision.spatial_merge_size)
    height, width = (n // merge for n in picture.grid)
    window = getattr(vision, "window_size", None)
    side = max(height, width) if window is None else int(window) // merge // int(vision.patch_size)  # in squares
    squares = grid_of(0, height, width)[:, 1:]
    windows = squares // side
    order = np.lexsort((squares[:, 1], squares[:, 0], windows[:, 1], windows[:, 0]))
    inner = grid_of(0, merge, merge)
    corner = np.concatenate([np.zeros((len(squares), 1), dtype=np.int32), squares[order] * merge], axis=1)
    places: Coordinates = (corner[:, None, :] + inner[None]).reshape(-1, 3).astype(np.int32)
    return places


def downsampled(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """GLM-4V: its tower hands on one row for each square of neighbours, line by line."""
    merge = int(config.vision_config.spatial_merge_size)
    return grid_of(0, *(n // merge for n in picture.grid))


def pooled(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """Gemma 4: its tower pools patches itself, so that its rows are the image tokens."""
    return image_tokens(picture)


def square_lines(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """Gemma 3n: its tower is a convolution, whose rows are the image tokens, line by line."""
    return image_square(picture)


def tile_lines(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """Llama 4: its tower shuffles patches itself, so that its rows are the image tokens."""
    return tile_tokens(picture)


def overlapping(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """Molmo2: the whole picture small (tile 0), then crops of a large canvas, row by row, that share their margins."""
    processor = picture.processor.image_processor
    side = int(config.vision_config.image_size[0]) // int(config.vision_config.patch_size)
    margins, pooled = sum(processor.overlap_margins), processor.pooling_size
    large = image_overlapping(picture)
    large = large[large[:, 0] == 1]
    counted = [int(large[:, 1 + axis].max()) + 1 for axis in (0, 1)]
    down, across = ((int(pooled[axis]) * counted[axis] - margins) // (side - margins) for axis in (0, 1))
    crops = [
        grid_of(1 + row * across + col, side, side) + np.array([0, row, col], dtype=np.int32) * (side - margins)
        for row in range(down)
        for col in range(across)
    ]
    return np.concatenate([grid_of(0, side, side), *crops])


def anyres(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """LLaVA-NeXT and OneVision: the whole picture small (tile 0), then the views of its canvas, padding included, row by row.

    In a prompt of several pictures OneVision reads of each one small view.
    """
    small = grid_of(0, *shape)
    if sum(picture.runs) == shape[0] * shape[1] + 1:
        return small
    down, across = canvas_views(picture)
    parts = [
        grid_of(1 + row * across + col, *shape) + np.array([0, row * shape[0], col * shape[1]], dtype=np.int32)
        for row in range(down)
        for col in range(across)
    ]
    return np.concatenate([small, *parts])


def lines(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """Pixtral, Mistral 3: the picture's own patches, line by line; those of its padding are left out."""
    height, width = picture.size
    side = int(config.vision_config.patch_size)
    return grid_of(0, height // side, width // side)


def crops(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """InternVL, Aya Vision: tiles row by row, counted over the whole picture, then the whole picture, small.

    InternVL's connector gets squares of patches as one row each (`downsample_ratio`).
    """
    ratio = float(getattr(config, "downsample_ratio", 1))
    n_each = int(getattr(picture.processor, "image_seq_length", 0)) or picture.runs[0]
    return crop_places(picture, sum(picture.runs) // n_each, (int(shape[0] * ratio), int(shape[1] * ratio)))


def resampled(picture: Picture, shape: Shape, config: Any) -> Coordinates:
    """Idefics2: the picture's quarters, counted over the whole picture where it cuts pictures, and then the whole, small.

    Each is filled up to the size of the prompt's largest; what fills it up has row and column -1.
    """
    side = int(config.vision_config.patch_size)
    sizes = [(height // side, width // side) for height, width in picture.shapes]
    parts = []
    for tile, (height, width) in enumerate(sizes):
        places = grid_of(tile, *shape)
        outside = (places[:, 1] >= height) | (places[:, 2] >= width)
        if tile < len(sizes) - 1:
            places[:, 1:] += np.array([tile // 2 * sizes[0][0], tile % 2 * sizes[0][1]], dtype=np.int32)
        places[outside, 1:] = -1
        parts.append(places)
    return np.concatenate(parts)


TOWERS: dict[str, Callable[[Picture, Shape, Any], Coordinates]] = {
    "square": square,
    "tiles": tiles,
    "merged": merged,
    "downsampled": downsampled,
    "pooled": pooled,
    "square_lines": square_lines,
    "tile_lines": tile_lines,
    "overlapping": overlapping,
    "anyres": anyres,
    "lines": lines,
    "crops": crops,
    "resampled": resampled,
}


def locate_patches(layout: str, picture: Picture, config: Any) -> Coordinates:
    """Tile, row and column of every row that the tower hands to the connector for one picture, shape (n, 3).

    Raises:
        PatchError: the layout is not known.
    """
    if layout not in TOWERS:
        raise PatchError(f"no layout {layout!r} of a vision tower")
    side = _patch_side(config)
    shape = picture.view[0] // side, picture.view[1] // side
    return _with_class_tokens(TOWERS[layout](picture, shape, config), shape, config)


def _patch_side(config: Any) -> int:
    side = getattr(config.vision_config, "patch_size", 1)  # a tower of convolutions has none
    return int(side[0] if isinstance(side, list | tuple) else side)


def padded_together(family: Family) -> bool:
    """Whether what the tower hands on for a picture depends on those of the other samples in the batch."""
    return family.patches == "resampled"


def _with_class_tokens(places: Coordinates, shape: Shape, config: Any) -> Coordinates:
    """CLIP puts a class token before the patches of each view; LLaVA's `default` leaves each view's first row out."""
    first = str(getattr(config.vision_config, "model_type", "")).startswith(("clip", "internvl"))
    dropped = getattr(config, "vision_feature_select_strategy", "full") == "default"
    if first == dropped or not len(places):
        return places
    views = np.split(places, len(places) // (shape[0] * shape[1]))
    if dropped:
        return np.concatenate([view[1:] for view in views])
    return np.concatenate([part for view in views for part in ([[view[0, 0], -1, -1]], view)]).astype(np.int32)


def tower_width(config: Any, hidden_size: int) -> int:
    """Width of those rows: LLaVA may hand on several blocks' outputs side by side, InternVL those of several patches."""
    layers = getattr(config, "vision_feature_layer", None)
    layers = (
        getattr(config.adapter_config, "vision_feature_layer", None) if hasattr(config, "adapter_config") else layers
    )
    n_patches = round(1 / float(getattr(config, "downsample_ratio", 1))) ** 2
    return hidden_size * n_patches * (len(layers) if isinstance(layers, list | tuple) else 1)
