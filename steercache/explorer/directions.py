"""What a sample is coloured by: the norm of its rows, a vector, or a feature of an SAE."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from steercache.api.cache import Cache
from steercache.api.projections import (
    Projections,
    feature_on_rows,
    first_site,
    project_rows,
    vector_of_id,
)
from steercache.api.sae_encoding import EncodedRun
from steercache.api.samples import Sample
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from steercache.explorer.asking import is_id, one_of, whole
from steercache.explorer.colours import Scheme
from steercache.explorer.memory import Remembered
from steercache.explorer.token_view import MEASURES, Measure, Shading, shade

SCHEMES = ("mean", "zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """What a page is coloured by: `of` as links have it (`norm`, `vector:<id>`, `feature:<sae>`), its name and its layers."""

    of: str
    name: str
    layers: tuple[int, ...]
    vector: SteeringVector | None = None
    sae: str | None = None
    feature: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request's choice."""

    direction: Direction
    layer: int
    measure: Measure
    scheme: Scheme


class Directions:
    """Vectors and features that fit a run."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._vectors: Remembered[SteeringVector] = Remembered(64, 3600.0)
        self._lists: Remembered[Any] = Remembered(16, 5.0)

    def vector(self, vector_id: str) -> SteeringVector:
        """A vector by its whole id. Raises NotFoundError."""
        return self._vectors.get(vector_id, lambda: vector_of_id(self._cache.session, vector_id))

    def vectors_for(self, run_id: str) -> list[dict[str, Any]]:
        """The vectors whose rows are of a site and width that the run has, newest first; controls are left out."""

        def read() -> list[dict[str, Any]]:
            layout = self._cache.folder.source(run_id).document.layout
            widths = {site.site: site.width for site in layout.sites}
            rows = self._cache.vectors().to_arrow_table().to_pylist()
            return [row for row in rows if widths.get(row["site"]) == row["hidden_size"]]

        found: list[dict[str, Any]] = self._lists.get(("vectors", run_id), read)
        return found

    def encodings(self) -> list[EncodedRun]:
        """Every run that is encoded with an SAE."""
        found: list[EncodedRun] = self._lists.get("encodings", self._cache.encodings)
        return found

    def layers_of_run(self, run_id: str) -> tuple[int, ...]:
        """Layers at the site that is shown without a vector."""
        return self._cache.folder.source(run_id).layers(first_site(self._cache.session, run_id))

    def wanted(self, request: Request, run_id: str, *, concept: str | None = None) -> Wanted:
        """What a request wants to see; without a word about it a vector of the concept, or the newest, at its best layer.

        Raises:
            UsageError: it is no such choice. NotFoundError: there is no such vector or encoding.
        """
        of = request.query_params.get("of", "")
        vectors = self.vectors_for(run_id) if not of else []
        chosen = next((one for one in vectors if concept is not None and one["concept"] == concept), None)
        chosen = chosen or next(iter(vectors), None)
        if chosen is not None:
            of = f"vector:{chosen['vector_id']}"
        direction = self._direction(of or "norm", request, run_id)
        best = None if chosen is None else chosen["best_layer"]
        layers = direction.layers
        if not layers:
            raise UsageError(f"the run has no layer of {direction.name}")
        default = best if best in layers else layers[len(layers) // 2]
        layer = whole(request, "layer", default, low=-1)
        if layer not in layers:  # another vector was chosen, which lacks the layer of the one before
            layer = min(layers, key=lambda one: abs(one - layer))
        measure = one_of(request, "measure", MEASURES)
        if direction.vector is None and measure == "cosine":
            measure = "projection"
        scheme: Scheme = "up" if direction.sae is None else "fires"
        if direction.vector is not None and measure != "norm":
            scheme = "zero" if one_of(request, "centre", SCHEMES) == "zero" else "mean"
        return Wanted(direction=direction, layer=layer, measure=measure, scheme=scheme)  # type: ignore[arg-type]

    def shading(self, sample: Sample, wanted: Wanted) -> tuple[Shading, Projections]:
        """The colours of a sample. Raises NotFoundError, UsageError, DamagedError."""
        session, one = self._cache.session, wanted.direction
        if one.sae is not None and one.feature is not None:
            found = feature_on_rows(session, sample.run_id, sample.rows, sae=one.sae, feature=one.feature)
        else:
            found = project_rows(session, sample.run_id, sample.rows, vector=one.vector, layer=wanted.layer)
        return shade(sample, found, measure=wanted.measure, scheme=wanted.scheme), found

    def _direction(self, of: str, request: Request, run_id: str) -> Direction:
        kind, _, name = of.partition(":")
        if of == "norm":
            return Direction(of=of, name="the norm of the rows", layers=self.layers_of_run(run_id))
        if kind == "vector" and is_id(name):
            vector = self.vector(name)
            kept = set(self._cache.folder.source(run_id).layers(vector.site))
            layers = tuple(layer for layer in vector.layers if layer in kept)
            return Direction(of=of, name=vector.name, layers=layers, vector=vector)
        if kind == "feature" and is_id(name):
            encoded = self._cache.encoded(name, run=run_id)
            feature = whole(request, "feature", 0, high=encoded.sae.d_sae - 1)
            label = f"feature {feature} of {encoded.sae.name}"
            return Direction(of=of, name=label, layers=(encoded.layer,), sae=name, feature=feature)
        raise UsageError("a sample is coloured by norm, vector:ID or feature:SAE")
