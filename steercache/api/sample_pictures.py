"""The picture of a sample as the model got it, and where on it each of the sample's patches lies."""

from dataclasses import dataclass, field

import numpy as np

from steercache.analysis.patches import PictureSample, views_of
from steercache.analysis.pictures import picture_of
from steercache.api.samples import Sample
from steercache.core.errors import NotFoundError
from steercache.queries.session import Session

Box = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """Boxes of a sample's patches by the place of their token in `Sample.tokens`: the finest look that the model took.

    `frame` is what of the picture that look covers. `notes` say what is not drawn.
    """

    boxes: dict[int, Box]
    n_rows: int
    n_cols: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePicture:
    """A picture as PNG, upright, in RGB, at most 640 pixels long; `width` and `height` are its pixels."""

    png: bytes = field(repr=False)
    width: int
    height: int


def patches_of(session: Session, sample: Sample, *, size: tuple[int, int] | None) -> Patches | None:
    """Where the patches of a sample lie on its picture of `size` pixels (None: a square that they fill); None: no patches."""
    places = [i for i, token in enumerate(sample.tokens) if token.kind == "image" and token.patch_row >= 0]
    if not places:
        return None
    tokens = [sample.tokens[i] for i in places]
    tile, row, col = (
        np.array([getattr(token, name) for token in tokens]) for name in ("tile", "patch_row", "patch_col")
    )
    views, notes = views_of(tile, row, col)
    chosen = max(views, key=lambda view: int(view.sum()))
    n_rows, n_cols = int(row[chosen].max()) + 1, int(col[chosen].max()) + 1
    frame = session.cache.run_document(sample.run_id).model.frame
    left, top, right, bottom = (0.0, 0.0, 1.0, 1.0) if frame is None or size is None else frame.box(*size)
    across, down = (right - left) / n_cols, (bottom - top) / n_rows
    boxes = {
        places[i]: (
            left + int(col[i]) * across,
            top + int(row[i]) * down,
            left + (int(col[i]) + 1) * across,
            top + (int(row[i]) + 1) * down,
        )
        for i in np.flatnonzero(chosen).tolist()
    }
    if len(views) > 1:
        notes = [*notes, f"{len(views) - 1} coarser looks at the picture are not drawn"]
    return Patches(boxes=boxes, n_rows=n_rows, n_cols=n_cols, notes=tuple(notes))


def read_picture(session: Session, sample: Sample) -> SamplePicture:
    """The picture of a sample, read again from the data set that the run's manifest names.

    Raises:
        NotFoundError: the sample has none, or its data set is not on this machine. UsageError: it cannot be drawn, or there are
            several. DamagedError: the data set has another picture now.
    """
    if sample.image_digest is None:
        raise NotFoundError(f"sample {sample.sample_idx} has no picture")
    from steercache.report.patches import picture_png

    found = PictureSample(
        run_id=sample.run_id,
        sample_idx=sample.sample_idx,
        sample_id=sample.sample_id,
        dataset=sample.dataset,
        ordinal=sample.ordinal,
        question=sample.question,
        answer=sample.answer,
        image_digest=sample.image_digest,
    )
    png, (width, height) = picture_png(picture_of(session, found))
    return SamplePicture(png=png, width=width, height=height)
