"""A scene as a picture: polygons on a shaded ground, drawn at twice the size and halved."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from steercache.data.scenes.layout import Scene, SceneItem
from steercache.data.scenes.outlines import outline_of
from steercache.data.scenes.palette import RGB

if TYPE_CHECKING:
    from PIL import Image

SIDE = 100  # pixels; what the zoo's models were trained on
_OVERSAMPLE = 2


def draw_scene(scene: Scene, *, side: int = SIDE) -> "Image.Image":
    """The picture of a scene, RGB, `side` x `side` pixels. Needs Pillow."""
    from PIL import Image, ImageDraw

    large = side * _OVERSAMPLE
    image = Image.fromarray(_ground(scene, large))
    canvas = ImageDraw.Draw(image)
    for stroke in scene.strokes:
        canvas.line([end * large for end in stroke.ends], fill=stroke.rgb, width=max(1, large // 100))
    for item in scene.items:
        corners = [(float(x), float(y)) for x, y in _corners(item, large, shifted=scene.shifted)]
        fill = _faded(fill_of(item, shifted=scene.shifted), scene)
        if item.hollow:
            canvas.line([*corners, corners[0], corners[1]], fill=fill, width=large // 28)
        else:
            canvas.polygon(corners, fill=fill)
    return image.reduce(_OVERSAMPLE)


def fill_of(item: SceneItem, *, shifted: bool) -> tuple[int, int, int]:
    """The item's RGB values: its colour and tone, and in a shifted scene mixed with a third of white (black gets lighter)."""
    r, g, b = (min(255, max(0, base + tone)) for base, tone in zip(RGB[item.colour], item.tone, strict=True))
    if shifted and item.colour not in ("black", "white"):
        r, g, b = ((2 * v + 235) // 3 for v in (r, g, b))
    return r, g, b


def _faded(fill: tuple[int, int, int], scene: Scene) -> tuple[int, int, int]:
    """The colour mixed with that of the ground, the mean of its edges."""
    ground = np.mean(scene.background, axis=0)
    r, g, b = (
        round((1 - scene.fade) * own + scene.fade * float(other)) for own, other in zip(fill, ground, strict=True)
    )
    return r, g, b


def _corners(item: SceneItem, side: int, *, shifted: bool) -> npt.NDArray[np.float64]:
    turn = np.deg2rad(item.angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    outline_n2 = outline_of(item.shape, shifted=shifted) @ rotation
    corners_n2: npt.NDArray[np.float64] = (outline_n2 * item.radius + np.array([item.x, item.y])) * side
    return corners_n2


def _ground(scene: Scene, side: int) -> npt.NDArray[np.uint8]:
    first, last = (np.array(edge, dtype=np.float64) for edge in scene.background)
    ramp = np.linspace(0, 1, side)[:, None]
    line_n3 = first + (last - first) * ramp
    if scene.striped:
        line_n3 += 14 * np.sign(np.sin(np.arange(side) * 40 / side))[:, None]
    ground = np.broadcast_to(line_n3[:, None, :], (side, side, 3))
    if scene.sideways:
        ground = ground.transpose(1, 0, 2)
    return np.clip(ground, 0, 255).astype(np.uint8).copy()
