"""What the tower is taught, per patch and per image token, computed from a scene.

The image tokens are regressed to sums of word embeddings of COLOUR and SHAPE (centred on the vocabulary's mean, unit norm),
plus the place along two fixed random directions. No word of place, number or comparison is used: the relation and the counting
concepts have no embedding built into the image tokens. Colour and shape words do, which the card says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from steercache.data.scenes import COLOURS, SHAPES, Scene
from steercache.zoo.demo.shape import N_CELLS, N_PATCHES

PLACE_GAIN = 1.5  # length of the place part at the border; colour and shape have length 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dictionary:
    """The directions that image tokens are made of, unit norm: colours (k, d), shapes (k, d), x, y and ground (d)."""

    colour_kd: torch.Tensor
    shape_kd: torch.Tensor
    x_d: torch.Tensor
    y_d: torch.Tensor
    ground_d: torch.Tensor
    scale: float  # length of a unit in the language model's embedding space


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Labels of a batch: -1 where nothing is to be said; patches (b, p), cells (b, c), places in [-1, 1]."""

    patch_shape: torch.Tensor
    patch_colour: torch.Tensor
    patch_offset: torch.Tensor  # (b, p, 2): from the patch to the centre of its item, in patches
    cell_shape: torch.Tensor
    cell_colour: torch.Tensor
    cell_xy: torch.Tensor  # (b, c, 2): of the item centred in the cell, otherwise of the cell


def make_dictionary(
    embedding_vd: torch.Tensor, colour_ids: list[int], shape_ids: list[int], *, seed: int
) -> Dictionary:
    """Directions from the embedding matrix (v, d) and, for place and ground, from a seed."""
    embedding = embedding_vd.float()
    mean_d = embedding.mean(0)

    def words(ids: list[int]) -> torch.Tensor:
        return functional.normalize(embedding[ids] - mean_d, dim=-1)

    noise = torch.randn(3, embedding.shape[1], generator=torch.Generator().manual_seed(seed))
    fixed = torch.cat([words(colour_ids), words(shape_ids)])
    basis = torch.linalg.qr(fixed.T).Q
    free = noise - noise @ basis @ basis.T  # orthogonal to every word
    x_d, y_d, ground_d = torch.linalg.qr(free.T).Q.T
    scale = float((embedding - mean_d).norm(dim=-1).median())
    return Dictionary(
        colour_kd=words(colour_ids), shape_kd=words(shape_ids), x_d=x_d, y_d=y_d, ground_d=ground_d, scale=scale
    )


def make_targets(scenes: Sequence[Scene]) -> Targets:
    """The labels of a batch of scenes."""
    b, p, c = len(scenes), N_PATCHES, N_CELLS
    patch_shape = np.full((b, p, p), -1)
    patch_colour = np.full((b, p, p), -1)
    offset = np.zeros((b, p, p, 2), dtype=np.float32)
    cell_shape = np.full((b, c, c), -1)
    cell_colour = np.full((b, c, c), -1)
    line = (np.arange(c) + 0.5) / c * 2 - 1
    xy = np.stack(np.broadcast_arrays(line[None, :], line[:, None]), axis=-1).astype(np.float32)
    cell_xy = np.broadcast_to(xy, (b, c, c, 2)).copy()
    middle = (np.arange(p) + 0.5) / p
    for i, scene in enumerate(scenes):
        for item in scene.items:
            shape, colour = SHAPES.index(item.shape), COLOURS.index(item.colour)
            dx, dy = item.x - middle[None, :], item.y - middle[:, None]
            inside = dx**2 + dy**2 < item.radius**2
            patch_shape[i][inside] = shape
            patch_colour[i][inside] = colour
            both = np.stack(np.broadcast_arrays(dx, dy), axis=-1) * p
            offset[i][inside] = both[inside]
            row, column = cell_of(item.x, item.y)
            cell_shape[i, row, column] = shape
            cell_colour[i, row, column] = colour
            cell_xy[i, row, column] = (item.x * 2 - 1, item.y * 2 - 1)
    return Targets(
        patch_shape=torch.from_numpy(patch_shape.reshape(b, -1)),
        patch_colour=torch.from_numpy(patch_colour.reshape(b, -1)),
        patch_offset=torch.from_numpy(offset.reshape(b, -1, 2)),
        cell_shape=torch.from_numpy(cell_shape.reshape(b, -1)),
        cell_colour=torch.from_numpy(cell_colour.reshape(b, -1)),
        cell_xy=torch.from_numpy(cell_xy.reshape(b, -1, 2)),
    )


def cell_of(x: float, y: float) -> tuple[int, int]:
    """Row and column of the image token whose cell holds a place."""
    return min(N_CELLS - 1, int(y * N_CELLS)), min(N_CELLS - 1, int(x * N_CELLS))


def token_targets(targets: Targets, words: Dictionary) -> torch.Tensor:
    """What each image token should be, (b, c, d), in units of the dictionary."""
    place = PLACE_GAIN * targets.cell_xy @ torch.stack([words.x_d, words.y_d])
    filled = (targets.cell_shape >= 0)[..., None]
    named = words.colour_kd[targets.cell_colour.clamp(min=0)] + words.shape_kd[targets.cell_shape.clamp(min=0)]
    return place + torch.where(filled, named, words.ground_d)
