"""Where on a picture a concept's direction lies: the cached rows of a sample's image tokens, projected on a vector.

`queries/patch_projections.sql` reads the numbers; here they become grids over the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from steercache.core.errors import NotFoundError, UsageError
from steercache.core.frame import ViewFrame
from steercache.core.ids import SHORT_ID, digest_bytes
from steercache.core.lineage import lineage_of, why_not_own
from steercache.queries.session import Session

Float64Array = npt.NDArray[np.float64]
_SAMPLE = """
SELECT sample_idx, sample_id, dataset, ordinal, question, answer, image_digest FROM samples
WHERE run_id = $run AND (sample_idx = $number OR ($number IS NULL AND starts_with(sample_id, $prefix)))
ORDER BY sample_idx
"""
_TOKENS = """
SELECT token_id, tile, patch_row FROM tokens WHERE run_id = $run AND sample_idx = $sample AND position >= 0 ORDER BY position
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSample:
    """One input of a run, and where it came from."""

    run_id: str
    sample_idx: int
    sample_id: str
    dataset: str
    ordinal: int
    question: str | None
    answer: str | None
    image_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchMap:
    """Projections on the unit direction at one layer, shape (rows, columns) of the grid that covers the picture; NaN where the
    run kept no row. `centred_rc` has the mean of these patches taken away."""

    layer: int
    projection_rc: Float64Array = field(repr=False)

    @property
    def mean(self) -> float:
        """Mean projection of the patches."""
        return float(np.nanmean(self.projection_rc))

    @property
    def centred_rc(self) -> Float64Array:
        """Projections without their mean, shape (rows, columns)."""
        centred: Float64Array = self.projection_rc - self.mean
        return centred

    @property
    def peak(self) -> tuple[int, int]:
        """Row and column of the patch that lies farthest along the direction."""
        row, col = np.unravel_index(int(np.nanargmax(self.projection_rc)), self.projection_rc.shape)
        return int(row), int(col)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchMaps:
    """The maps of one sample, a layer each; `view` names the view of the picture that they cover, `frame` what
    that look shows of it (None: all)."""

    sample: PictureSample
    vector: str
    concept: str | None
    site: str
    view: str
    maps: tuple[PatchMap, ...]
    frame: ViewFrame | None = None
    notes: tuple[str, ...] = ()


def find_sample(session: Session, run: str | None, wanted: str) -> PictureSample:
    """The sample of a run (the newest complete one with pictures for None) by number, or by id or its prefix.

    Raises:
        NotFoundError: no such run or sample; UsageError: several samples, or one without a picture.
    """
    number = int(wanted) if wanted.isdecimal() and len(wanted) < 6 else None
    run_id = _run_of(session, run)
    found = session.sql(_SAMPLE, run=run_id, number=number, prefix=wanted).to_arrow_table().to_pylist()
    if not found:
        hint = f"steercache query \"select sample_idx, question from samples where run_id = '{run_id[:SHORT_ID]}...'\""
        raise NotFoundError(f"no sample {wanted!r} in this run", hint=hint)
    if len(found) > 1:
        raise UsageError(f"{len(found)} samples begin with {wanted!r}", hint="give more of the id, or the sample_idx")
    if found[0]["image_digest"] is None:
        raise UsageError(f"sample {wanted} has no picture", hint="a run of a multimodal trace with images")
    return PictureSample(run_id=run_id, **found[0])


def _run_of(session: Session, run: str | None) -> str:
    if run is not None:
        return session.cache.resolve_run(run)
    newest = session.sql(
        "SELECT run_id FROM runs r WHERE complete AND EXISTS (FROM samples s WHERE s.run_id = r.run_id"
        " AND s.image_digest IS NOT NULL) ORDER BY created_at DESC, run_id LIMIT 1"
    ).fetchall()
    if not newest:
        raise NotFoundError("there is no complete run with pictures yet", hint="build one, such as demo-pictures")
    return str(newest[0][0])


def patch_maps(
    session: Session,
    sample: PictureSample,
    vector: str,
    *,
    layers: Sequence[int],
    view: str = "fine",
    allow_foreign: bool = False,
) -> PatchMaps:
    """Projections of a sample's image patches on a vector, layer by layer.

    Where a model looks at the picture several times (Idefics3: its tiles, then all of it small), "fine" is the look with most
    patches and "small" that with fewest.

    Raises:
        UsageError: the sample has several pictures, the vector or the run lacks a layer, other widths, the vector was fitted
            on other weights than the run's model or its backbone and that is not allowed, the run kept no image rows, or the
            model's image tokens are no patches (Idefics2).
    """
    if not _has_one_picture(session, sample):
        raise UsageError(
            f"sample {sample.sample_idx} has several pictures, and a map is of one", hint="a sample with one picture"
        )
    direction = session.vector(vector)
    document = session.cache.run_document(sample.run_id)
    if direction.hidden_size != document.model.hidden_size:
        raise UsageError(
            f"the vector {direction.name!r} is {direction.hidden_size} wide and the run {document.model.hidden_size}"
        )
    origin = lineage_of(direction.fitted_on, document.model)
    if origin == "foreign" and not allow_foreign:
        raise UsageError(
            f"the vector {direction.name!r} {why_not_own(direction.fitted_on, document.model)}",
            hint="fit it on a run of this model; or accept it with `allow_foreign`, which the result records",
        )
    kept = set(session.cache.source(sample.run_id).layers(direction.site)) & set(direction.layers)
    lacking = sorted(set(layers) - kept)
    if lacking or not layers:
        shown = ", ".join(map(str, sorted(kept))) or "none"
        raise UsageError(
            f"no layer {', '.join(map(str, lacking)) or 'was named'}", hint=f"run and vector have: {shown}"
        )
    maps = []
    notes = [f"{direction.name}: a vector of {origin} lineage"] if origin in ("foreign", "unknown") else []
    for layer in layers:
        rows = session.query(
            "patch_projections", run=sample.run_id, sample=sample.sample_idx, vector=direction.vector_id, layer=layer
        ).to_arrow_table()
        if not len(rows):
            _refuse_placeless(session, sample)
            raise UsageError(
                "the run kept no rows of this picture's patches", hint="rows: {policy: all}, or image, in the trace"
            )
        columns = {name: rows[name].to_numpy() for name in ("tile", "patch_row", "patch_col", "projection")}
        views, said = views_of(columns["tile"], columns["patch_row"], columns["patch_col"])
        chosen = (max if view == "fine" else min)(views, key=lambda v: int(v.sum()))
        maps.append(PatchMap(layer=layer, projection_rc=_grid(columns, chosen)))
        notes += said
    return PatchMaps(
        sample=sample,
        vector=direction.name,
        concept=direction.concept,
        site=direction.site,
        view=view,
        maps=tuple(maps),
        frame=document.model.frame,
        notes=tuple(dict.fromkeys(notes)),
    )


def _refuse_placeless(session: Session, sample: PictureSample) -> None:
    """Raises UsageError where the sample's image tokens are no patches."""
    tokens = session.sql(_TOKENS, run=sample.run_id, sample=sample.sample_idx).to_arrow_table()
    if not (tokens["patch_row"].to_numpy() >= 0).any():
        raise UsageError(
            "this model's image tokens have no place on the picture: each of them reads a whole view of it",
            hint="a model whose image tokens are patches",
        )


def _has_one_picture(session: Session, sample: PictureSample) -> bool:
    """Whether the picture that the index names is all that the sample shows.

    Each picture has tiles of its own, so one tile is one picture. Where there are several, the sample's id tells: it is the
    hash of its tokens and of all its pictures. (Models that read more per token than its id have one tile for each picture.)
    """
    tokens = session.sql(_TOKENS, run=sample.run_id, sample=sample.sample_idx).to_arrow_table()
    tile, token_id = tokens["tile"].to_numpy(), tokens["token_id"].to_numpy().astype(np.int32)
    if len(np.unique(tile[tile >= 0])) <= 1:
        return True
    return digest_bytes(token_id.tobytes(), sample.image_digest.encode()) == sample.sample_id


def views_of(
    tile: npt.NDArray[Any], row: npt.NDArray[Any], col: npt.NDArray[Any]
) -> tuple[list[npt.NDArray[np.bool_]], list[str]]:
    """Which patches cover the picture together: a mask of shape (n,) per look at it, and what could not be placed.

    Tiles that share no coordinate are one look (Idefics3's tiles count rows and columns over the whole picture). A further look
    of the first one's shape is a crop or another picture, and is left out: where it lies is not in the index.
    """
    looks: list[tuple[set[tuple[int, int]], npt.NDArray[np.bool_]]] = []
    for number in np.unique(tile):
        mask = tile == number
        places = set(zip(row[mask].tolist(), col[mask].tolist(), strict=True))
        home = next((i for i, (taken, _) in enumerate(looks[-1:]) if not taken & places), None)
        if home is None:
            looks.append((places, mask))
        else:
            taken, before = looks[-1]
            looks[-1] = (taken | places, before | mask)
    first = looks[0][0]
    kept = [mask for i, (places, mask) in enumerate(looks) if i == 0 or places != first]
    lost = len(looks) - len(kept)
    return kept, [f"{lost} crops or further pictures are not drawn"] if lost else []


def _grid(columns: dict[str, npt.NDArray[Any]], chosen: npt.NDArray[np.bool_]) -> Float64Array:
    row, col = columns["patch_row"][chosen], columns["patch_col"][chosen]
    grid: Float64Array = np.full((int(row.max()) + 1, int(col.max()) + 1), np.nan)
    grid[row, col] = columns["projection"][chosen]
    return grid
