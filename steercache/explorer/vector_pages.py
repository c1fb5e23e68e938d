"""Vectors and features: what they are, and the tokens that they are strongest on."""

import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from steercache.api.cache import Cache
from steercache.api.top_tokens import LiveFeature, TopTokens, live_features, top_tokens_of_feature, top_tokens_of_vector
from steercache.core.errors import NotFoundError
from steercache.core.vectors import SteeringVector
from steercache.explorer.asking import is_id, whole, words
from steercache.explorer.charts import Line, by_layer, table_of
from steercache.explorer.directions import Directions
from steercache.explorer.memory import Remembered
from steercache.explorer.rendering import page

TOP: Final = 25
_SHOWN: Final = 500
_PROVENANCE_CHARS: Final = 4000
_CONSIDERED: Final = """
SELECT feature_idx, concept, verdict, explanation, score, rate_anchor, rate_control, picked, selected, reason FROM features
WHERE sae_id = $sae AND ($feature IS NULL OR feature_idx = $feature)
ORDER BY selected DESC NULLS LAST, picked DESC NULLS LAST, concept, rank LIMIT 100
"""
_HIDDEN: Final = ("features",)  # of a provenance: thousands of rows


class VectorPages:
    """Pages about vectors and SAEs."""

    def __init__(self, cache: Cache, directions: Directions) -> None:
        self._cache, self._directions = cache, directions
        self._top: Remembered[TopTokens] = Remembered(256, 600.0)
        self._live: Remembered[list[LiveFeature]] = Remembered(8, 600.0)

    def vectors(self, request: Request) -> Response:
        """Every vector; controls on request."""
        with_controls = bool(words(request, "controls"))
        try:
            rows = self._cache.vectors(controls=with_controls).to_arrow_table().to_pylist()
        except NotFoundError:
            rows = []
        search = words(request, "search")
        if search:
            rows = [r for r in rows if search.lower() in f"{r['name']} {r['concept']} {r['method']} {r['run']}".lower()]
        return page(
            request,
            "vectors.html",
            vectors=rows[:_SHOWN],
            n=len(rows),
            search=search or "",
            with_controls=with_controls,
        )

    def vector(self, request: Request) -> Response:
        """One vector: how good it is by layer, and its strongest tokens in a run."""
        vector = self._directions.vector(request.path_params["vector_id"])
        runs = self._runs_for(vector)
        run_id = words(request, "run") or next((r["run_id"] for r in runs), None)
        if run_id is not None and (not is_id(run_id) or run_id not in {r["run_id"] for r in runs}):
            raise NotFoundError("no run of this id fits the vector")
        aucs = {int(d["layer"]): float(d["auc"]) for d in vector.diagnostics if d.get("auc") is not None}
        layers = list(vector.layers)
        top, layer = None, max(aucs, key=lambda one: aucs[one]) if aucs else layers[len(layers) // 2]
        if run_id is not None:
            kept = set(self._cache.folder.source(run_id).layers(vector.site))
            layers = [one for one in vector.layers if one in kept]
            layer = whole(request, "layer", layer, low=-1)
            layer = min(layers, key=lambda one: abs(one - layer))
            top = self._top_of_vector(vector, run_id, layer)
        return page(
            request,
            "vector.html",
            vector=vector,
            runs=runs,
            run_id=run_id,
            layers=layers,
            layer=layer,
            at=layers.index(layer),
            top=top,
            charts=_charts(vector, aucs),
            provenance=_provenance(vector),
        )

    def saes(self, request: Request) -> Response:
        """Every run that is encoded with an SAE."""
        names = {one.run_id: self._cache.folder.name_of(one.run_id) for one in self._directions.encodings()}
        return page(request, "saes.html", encodings=self._directions.encodings(), names=names)

    def sae(self, request: Request) -> Response:
        """One SAE over a run, and one of its features."""
        sae_id, run_id = request.path_params["sae_id"], request.path_params["run_id"]
        found = [e for e in self._directions.encodings() if (e.sae.sae_id, e.run_id) == (sae_id, run_id)]
        if not found:
            raise NotFoundError("the run is not encoded with this SAE")
        encoded = found[0]
        feature = whole(request, "feature", -1, low=-1, high=encoded.sae.d_sae - 1)
        top = None
        if feature >= 0:
            key = (sae_id, run_id, feature, encoded.n_entries)
            session = self._cache.session
            top = self._top.get(key, lambda: top_tokens_of_feature(session, sae_id, feature, run_id, n=TOP))
        values = {"sae": sae_id, "feature": feature if feature >= 0 else None}
        considered = self._cache.sql(_CONSIDERED, **values).to_arrow_table().to_pylist()
        return page(
            request,
            "sae.html",
            encoded=encoded,
            run_name=self._cache.folder.name_of(run_id),
            feature=feature,
            live=[]
            if feature >= 0
            else self._live.get((sae_id, run_id, encoded.n_entries), lambda: live_features(encoded)),
            top=top,
            considered=considered,
        )

    def _top_of_vector(self, vector: SteeringVector, run_id: str, layer: int) -> TopTokens:
        key = (vector.vector_id, run_id, layer, self._cache.folder.source(run_id).generation)
        session = self._cache.session
        return self._top.get(key, lambda: top_tokens_of_vector(session, vector, run_id, layer=layer, n=TOP))

    def _runs_for(self, vector: SteeringVector) -> list[dict[str, Any]]:
        """Runs that have rows for the vector, the one that it was fitted on first."""
        fits = []
        for row in self._cache.runs().to_arrow_table().to_pylist():
            layout = self._cache.folder.source(row["run_id"]).document.layout
            site = next((one for one in layout.sites if one.site == vector.site), None)
            if site is not None and site.width == vector.hidden_size and set(site.layers) & set(vector.layers):
                fits.append(row)
        fitted_on = vector.provenance.get("run_id")
        return sorted(fits, key=lambda row: row["run_id"] != fitted_on)


def _charts(vector: SteeringVector, aucs: dict[int, float]) -> list[tuple[str, Any, list[str], list[list[str]]]]:
    """(title, chart, columns, rows) of AUC and of norms by layer."""
    nan = float("nan")
    charts = []
    if aucs and len(vector.layers) > 1:
        auc = [aucs.get(layer, nan) for layer in vector.layers]
        best = max(aucs, key=lambda one: aucs[one])
        said = f"Held-out AUC by layer, highest {aucs[best]:.3f} at layer {best}"
        columns, rows = table_of(vector.layers, {"AUC": auc})
        lines = [Line(name="held-out AUC of the projection", values=auc)]
        charts.append(("AUC by layer", by_layer(vector.layers, lines, words=said, unit="AUC"), columns, rows))
    if len(vector.layers) > 1:
        measured = {int(d["layer"]): d.get("resid_norm") for d in vector.diagnostics if "layer" in d}
        norms = [float(n) for n in vector.norms]
        known = {"norm of the vector": norms}
        if any(value is not None for value in measured.values()):
            found = [measured.get(layer) for layer in vector.layers]
            known["median norm of the rows"] = [nan if value is None else float(value) for value in found]
        columns, rows = table_of(vector.layers, known)
        lines = [Line(name=name, values=values) for name, values in known.items()]
        said = f"Norm of the vector by layer, from {norms[0]:.3g} to {norms[-1]:.3g}"
        charts.append(("Norms by layer", by_layer(vector.layers, lines, words=said, unit="norm"), columns, rows))
    return charts


def _provenance(vector: SteeringVector) -> str:
    told = {key: value for key, value in vector.provenance.items() if key not in _HIDDEN}
    text = json.dumps(told, indent=1, ensure_ascii=False, default=str)
    return text if len(text) <= _PROVENANCE_CHARS else f"{text[:_PROVENANCE_CHARS]} …"
