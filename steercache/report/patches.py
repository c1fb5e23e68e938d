"""A concept's direction over a picture: the picture as the model got it, then a map of its patches per layer."""

import base64
import io
import math
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from steercache.analysis.patches import PatchMap, PatchMaps
from steercache.core.errors import UsageError
from steercache.data.pixels import upright_rgb
from steercache.report.style import DIVERGING, altair, heading, styled

Box = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the picture
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_SIDE = 210  # points, of a panel's longer side
_PIXELS = 640  # of the picture's longer side, as embedded
_COLUMNS = 5  # at most in a line
_CLIP = 0.98  # quantile of the deviations at which the colours end: one massive patch must not bleach the rest


def patch_chart(maps: PatchMaps, picture: bytes) -> Any:
    """The picture, and beside it one map per layer; colours are centred on the mean of the picture's own patches.

    Raises:
        MissingExtraError: altair is not installed. UsageError: the picture cannot be drawn.
    """
    alt = altair()
    image = _open(picture)
    size = _size(image)
    box = WHOLE if maps.frame is None else maps.frame.box(*image.size)
    panels = [_photo(image, size), *(_map(one, image, size, box) for one in maps.maps)]
    asked = maps.sample.question or f"sample {maps.sample.sample_idx} of {maps.sample.dataset}"
    answer = f" ({maps.sample.answer})" if maps.sample.answer else ""
    concept = "" if maps.concept in (None, maps.vector) else f" ({maps.concept})"
    title = heading(
        f"Image patches along {maps.vector!r}{concept}",
        f"“{asked}”{answer}",
        f"projection of {maps.site} on the unit direction, less the mean of this picture's patches",
    )
    n_lines = math.ceil(len(panels) / _COLUMNS)
    chart = alt.concat(*panels, columns=math.ceil(len(panels) / n_lines), spacing=18).properties(title=title)
    return styled(chart.resolve_scale(color="independent"))


def picture_png(picture: bytes) -> tuple[bytes, tuple[int, int]]:
    """A picture as the model got it, as PNG of at most 640 pixels, and its size in pixels.

    Raises:
        UsageError: it cannot be drawn.
    """
    try:
        image = _open(picture)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise UsageError(f"the picture cannot be drawn: {type(error).__name__}") from error
    sink = io.BytesIO()
    image.save(sink, format="PNG")
    return sink.getvalue(), image.size


def _photo(image: PIL.Image.Image, size: tuple[int, int]) -> Any:
    return _embedded(image, size).properties(width=size[0], height=size[1], title=heading("the picture", " ", size=12))


def _map(one: PatchMap, image: PIL.Image.Image, size: tuple[int, int], box: Box) -> Any:
    """One layer's patches where they lie; what the model saw as a border around the picture is cut off."""
    alt = altair()
    left, top, right, bottom = box
    grid_rc = one.centred_rc
    n_rows, n_cols = grid_rc.shape
    limit = float(np.nanquantile(np.abs(grid_rc), _CLIP)) or 1.0
    rows = [
        {
            "x": left + c / n_cols * (right - left),
            "x2": left + (c + 1) / n_cols * (right - left),
            "y": top + r / n_rows * (bottom - top),
            "y2": top + (r + 1) / n_rows * (bottom - top),
            "value": float(grid_rc[r, c]),
        }
        for r in range(n_rows)
        for c in range(n_cols)
        if np.isfinite(grid_rc[r, c])
    ]
    scale = alt.Scale(domain=[-limit, limit], range=list(DIVERGING), clamp=True, interpolate="lab")
    legend = alt.Legend(
        orient="bottom",
        title=None,
        gradientLength=size[0],
        gradientThickness=7,
        values=[-limit, 0, limit],
        labelExpr="datum.value == 0 ? '0' : format(datum.value, '+.2~g')",
        offset=6,
    )
    cells = (
        alt.Chart(alt.Data(values=rows))
        .mark_rect(opacity=0.62, strokeWidth=0, clip=True)
        .encode(
            x=_axis("x"),
            x2="x2:Q",
            y=_axis("y", down=True),
            y2="y2:Q",
            color=alt.Color("value:Q", scale=scale, legend=legend),
        )
    )
    subtitle = f"mean {one.mean:.3g}, highest at row {one.peak[0]}, column {one.peak[1]}"
    return alt.layer(_embedded(_paled(image), size), cells).properties(
        width=size[0], height=size[1], title=heading(f"layer {one.layer}", subtitle, size=12)
    )


def _embedded(image: PIL.Image.Image, size: tuple[int, int]) -> Any:
    alt = altair()
    data = alt.Data(values=[{"x": 0.5, "y": 0.5, "url": _data_url(image)}])
    mark = alt.Chart(data).mark_image(width=size[0], height=size[1], aspect=False)
    return mark.encode(x=_axis("x"), y=_axis("y", down=True), url="url:N")


def _axis(field: str, *, down: bool = False) -> Any:
    alt = altair()
    scale = alt.Scale(domain=[0, 1], nice=False, zero=False, reverse=down)
    return (alt.Y if down else alt.X)(f"{field}:Q", axis=None, scale=scale)


def _open(picture: bytes) -> PIL.Image.Image:
    """The picture as the model got it, no larger than is drawn. Raises UsageError for one that no model gets."""
    with PIL.Image.open(io.BytesIO(picture)) as opened:
        try:
            image = upright_rgb(opened)
        except ValueError as error:
            raise UsageError(f"the picture cannot be drawn: {error}") from error
    image.thumbnail((_PIXELS, _PIXELS))
    return image


def _paled(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in light greys, so that its own colours are not taken for the map's."""
    grey = PIL.ImageOps.grayscale(image).convert("RGB")
    return PIL.Image.blend(grey, PIL.Image.new("RGB", grey.size, "white"), 0.3)


def _size(image: PIL.Image.Image) -> tuple[int, int]:
    scale = _SIDE / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _data_url(image: PIL.Image.Image) -> str:
    sink = io.BytesIO()
    image.save(sink, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"
