"""A sample: its text and its picture coloured along a direction, layer by layer."""

from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steercache.api.cache import Cache
from steercache.api.projections import row_over_layers
from steercache.api.sample_pictures import Patches, SamplePicture, patches_of
from steercache.api.samples import Sample
from steercache.core.errors import DamagedError, NotFoundError, SteercacheError, UsageError
from steercache.explorer.directions import Directions
from steercache.explorer.memory import Remembered
from steercache.explorer.rendering import message_of, page
from steercache.explorer.token_view import about_tokens, level_class, pieces_of

_FEATURES: Final = 8  # that are shown for a token
_MAX_ENTRIES: Final = 20_000_000  # of a shard that is read for one token


class SamplePages:
    """Pages and data about samples."""

    def __init__(self, cache: Cache, directions: Directions) -> None:
        self._cache, self._directions = cache, directions
        self._samples: Remembered[Sample] = Remembered(64, 60.0)
        self._pictures: Remembered[SamplePicture | str] = Remembered(32, 600.0)

    def sample(self, request: Request) -> Response:
        """The page of one sample."""
        sample = self._sample(request)
        wanted = self._directions.wanted(request, sample.run_id, concept=sample.concept)
        shading, found = self._directions.shading(sample, wanted)
        picture = self._picture(sample) if sample.image_digest is not None else None
        size = (picture.width, picture.height) if isinstance(picture, SamplePicture) else None
        patches = patches_of(self._cache.session, sample, size=size)
        of, vectors = wanted.direction.of, self._directions.vectors_for(sample.run_id)[:300]
        encodings = [one for one in self._directions.encodings() if one.run_id == sample.run_id]
        return page(
            request,
            "sample.html",
            sample=sample,
            run_name=self._cache.folder.name_of(sample.run_id),
            pieces=pieces_of(sample),
            wanted=wanted,
            layers=wanted.direction.layers,
            at=wanted.direction.layers.index(wanted.layer),
            site=found.site,
            note=found.note,
            classes=[level_class(level) for level in shading.levels],
            shading=shading,
            scales=shading.scales,
            vectors=vectors,
            listed=of in {f"vector:{one['vector_id']}" for one in vectors},
            encodings=encodings,
            of=of,
            picture=picture if isinstance(picture, SamplePicture) else None,
            trouble=picture if isinstance(picture, str) else None,
            patches=None if patches is None else _drawn(patches, size),
            data={"tokens": about_tokens(sample), "layers": wanted.direction.layers, **shading.record()},
        )

    def values(self, request: Request) -> Response:
        """The colours and numbers of a sample's tokens, as JSON."""
        sample = self._sample(request)
        wanted = self._directions.wanted(request, sample.run_id, concept=sample.concept)
        shading, found = self._directions.shading(sample, wanted)
        return JSONResponse(
            {
                "layer": wanted.layer,
                "layers": wanted.direction.layers,
                "site": found.site,
                "name": wanted.direction.name,
                "note": found.note,
                **shading.record(),
            }
        )

    def token(self, request: Request) -> Response:
        """One token over all layers, and the features that fire on it, as JSON."""
        sample, i = self._sample(request), request.path_params["i"]
        if i >= len(sample.tokens):
            raise NotFoundError("the sample has no such token")
        row = sample.tokens[i].row_idx
        if row is None:
            return JSONResponse({"layers": [], "features": []})
        wanted = self._directions.wanted(request, sample.run_id, concept=sample.concept)
        over = row_over_layers(self._cache.session, sample.run_id, row, vector=wanted.direction.vector)
        found = [[layer, _finite(norm), None if value is None else _finite(value)] for layer, norm, value in over]
        return JSONResponse({"layers": found, "features": self._features(sample.run_id, row)})

    def picture(self, request: Request) -> Response:
        """The picture of a sample."""
        found = self._picture(self._sample(request))
        if isinstance(found, str):
            raise NotFoundError(found)
        return Response(found.png, media_type="image/png")

    def _sample(self, request: Request) -> Sample:
        run_id, n = request.path_params["run_id"], request.path_params["n"]
        self._cache.folder.source(run_id)  # NotFoundError for a run that is not there
        return self._samples.get((run_id, n), lambda: self._cache.sample(run_id, n))

    def _picture(self, sample: Sample) -> SamplePicture | str:
        """The picture, or why it cannot be shown."""

        def read() -> SamplePicture | str:
            try:
                return self._cache.picture(sample)
            except (NotFoundError, UsageError, DamagedError, SteercacheError) as error:
                return message_of(error, self._cache.root)
            except ImportError as error:
                return f"{error.name} is not installed"

        return self._pictures.get((sample.run_id, sample.sample_idx), read)

    def _features(self, run_id: str, row: int) -> list[dict[str, Any]]:
        """The features that fire most on a row, of every SAE that encoded the run and whose shard is small enough to read."""
        shown = []
        for encoded in self._directions.encodings():
            encoding = encoded.rows.encoding
            record = encoding.fresh.get(row // encoding.rows_per_shard)
            if encoded.run_id != run_id or record is None or record.n_entries > _MAX_ENTRIES:
                continue
            acts = encoded.read(np.array([row]))
            order = np.argsort(-acts.values, kind="stable")[:_FEATURES]
            shown.append(
                {
                    "sae": encoded.sae.name,
                    "id": encoded.sae.sae_id,
                    "layer": encoded.layer,
                    "fires": [[int(acts.indices[k]), _finite(float(acts.values[k]))] for k in order],
                }
            )
        return shown


def _finite(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _drawn(patches: Patches, size: tuple[int, int] | None) -> dict[str, Any]:
    """Boxes in the pixels of the picture, or of a grid of 24 pixels a patch where there is none."""
    width, height = size or (24 * patches.n_cols, 24 * patches.n_rows)
    boxes = [
        {
            "i": i,
            "x": round(x * width, 2),
            "y": round(y * height, 2),
            "width": round((x2 - x) * width, 2),
            "height": round((y2 - y) * height, 2),
        }
        for i, (x, y, x2, y2) in patches.boxes.items()
    ]
    return {
        "boxes": boxes,
        "width": width,
        "height": height,
        "n_rows": patches.n_rows,
        "n_cols": patches.n_cols,
        "notes": patches.notes,
    }
