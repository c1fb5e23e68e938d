"""Fitting vectors from a cache by concept: which run, which query, which name. What `Cache.fit` does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from steercache.api.progress import ProgressLike, reporting
from steercache.cache.vectors import list_vectors
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit import METHODS, diagnose
from steercache.fit import compare as compare
from steercache.fit.catalogue import CATALOGUE
from steercache.fit.recipes import differences as differences
from steercache.fit.shift import vector_name
from steercache.manifests.recipe import RecipeMethod
from steercache.queries.session import Session

MethodName = RecipeMethod
RecipeName = Literal["default", "paper"]
ANCHORS: Literal["anchor_vs_control"] = "anchor_vs_control"
PAIRS: Literal["contrast_last"] = "contrast_last"

_LABELS = """
SELECT
    coalesce(bool_or(s.concept IS NOT NULL AND len(s.anchors) > 0), false),
    coalesce(bool_or(s.pair_id IS NOT NULL AND s.polarity IN (1, -1)), false),
    list(DISTINCT s.concept ORDER BY s.concept) FILTER (s.concept IS NOT NULL)
FROM samples s
WHERE s.run_id = $run AND ($concept IS NULL OR s.concept = $concept)
"""
_CONCEPTS_OF = "SELECT DISTINCT concept FROM samples WHERE run_id = $run AND sample_idx IN (SELECT unnest($samples))"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """What to fit; see `Cache.fit`. `query` None chooses by the labels of the run; `where` keeps rows as a target does."""

    concept: str | None = None
    all_concepts: bool = False
    query: str | None = None
    where: str | None = None
    run: str | None = None
    site: str = "resid_post"
    bindings: Mapping[str, Any] = field(default_factory=dict)
    recipe: RecipeName = "default"
    layers: Sequence[int] | None = None
    name: str | None = None
    seed: int = 0
    top: int | None = None
    diagnose: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLabels:
    """What the samples of a run are labelled with: concepts with anchor words, contrastive pairs, or neither."""

    has_anchors: bool
    has_pairs: bool
    concepts: tuple[str, ...]

    @property
    def query(self) -> str:
        """The selection that fits these labels: pairs where there are only pairs, anchors otherwise."""
        return PAIRS if self.has_pairs and not self.has_anchors else ANCHORS


def labels_of(session: Session, run_id: str, concept: str | None = None) -> RunLabels:
    """The labels of a run's samples, or of those of one concept."""
    ((anchors, pairs, concepts),) = session.sql(_LABELS, run=run_id, concept=concept).fetchall()
    return RunLabels(has_anchors=anchors, has_pairs=pairs, concepts=tuple(concepts or ()))


Finish = Callable[[Selection, SteeringVector], SteeringVector]
"""What is made of a fitted and diagnosed vector before it is saved."""


def fit_vectors(
    session: Session,
    method: MethodName,
    request: FitRequest,
    *,
    finish: Finish = lambda sel, vector: vector,
    progress: ProgressLike = None,
) -> list[SteeringVector]:
    """Fit, diagnose, finish and save; see `Cache.fit`."""
    if method not in METHODS:
        raise UsageError(f"no method named {method!r}", hint=f"choose among: {', '.join(get_args(MethodName))}")
    check_request(request)
    options: dict[str, Any] = {"recipe": request.recipe, "layers": request.layers}
    asked = {"seed": request.seed, "top": request.top}
    options |= {name: asked[name] for name in CATALOGUE[method].options if asked.get(name) is not None}
    run = run_of_request(session, request)
    concepts = concepts_of(session, run) if request.all_concepts and run is not None else [request.concept]
    fitted = []
    with reporting(progress) as show:
        for number, concept in enumerate(concepts):
            show(f"fitting {concept or 'a vector'}", number, len(concepts))
            sel = selected_rows(session, request, run=run, concept=concept)
            vector = METHODS[method](sel, name=_name(session, request, sel, method), **options)
            if request.diagnose:
                vector = diagnose(sel, vector, others=siblings(session, vector))
            vector = finish(sel, vector)
            session.save(vector)
            fitted.append(vector)
    return fitted


def method_facts() -> list[dict[str, Any]]:
    """Every method: {"name", "formula", "source", "length", "command", "tested_by"}."""
    return [one.to_json() for one in CATALOGUE.values()]


def check_request(request: FitRequest) -> None:
    """Raises UsageError for a request that contradicts itself."""
    if request.name and request.all_concepts:
        raise UsageError("a name goes with one concept", hint="leave it out: each vector is named after its concept")
    if request.concept and request.all_concepts:
        raise UsageError("one concept and all concepts exclude each other", hint="leave one of the two out")


def caveats(vector: SteeringVector) -> list[str]:
    """Caveats about the diagnostics of a fitted vector, one sentence each."""
    said = []
    if vector.provenance.get("lossy"):
        said.append("fitted on a lossy generation of the run: values differ from what the model computed")
    if vector.diagnostics and vector.diagnostics[0]["auc"] is None:
        said.append("no AUC: all sentences share an anchor word, directly or in a chain, so none can be held out")
    elif vector.diagnostics:
        said.append(f"AUC on held-out sentences and anchor words ({vector.diagnostics[0]['n_folds']} folds)")
    if (words := token_does_as_well(vector)) is not None:
        said.append(words)
    return said


def token_does_as_well(vector: SteeringVector) -> str | None:
    """A warning where a classifier that knows only the token id separates the sides as well as the vector; None otherwise.

    As well: its AUC is not below the 95 % interval of the vector's AUC at the vector's best layer.
    """
    best = max((d for d in vector.diagnostics if d["auc"] is not None), key=lambda d: d["auc"], default=None)
    if best is None or best.get("auc_low") is None or best["token_auc"] is None or best["token_auc"] < best["auc_low"]:
        return None
    return (
        f"{vector.name}: knowing only the token does as well (AUC {best['token_auc']:.3f}) as the vector at its best layer, "
        f"{best['layer']} (AUC {best['auc']:.3f}, 95 % interval {best['auc_low']:.3f} to {best['auc_high']:.3f}): "
        "it may stand for these words and not for the concept"
    )


def run_of_request(session: Session, request: FitRequest) -> str | None:
    """The run to fit on; None where the query chooses it."""
    wanted = request.run or request.bindings.get("run")
    if wanted is not None:
        return session.cache.resolve_run(wanted)
    if request.all_concepts:
        return session.labelled_run()  # chosen once, so that all vectors are of one run
    return session.newest_run(request.concept or request.bindings.get("concept")) if request.query is None else None


def concepts_of(session: Session, run: str) -> list[str | None]:
    """The concepts that the run's samples have, all of them. Raises NotFoundError for none."""
    concepts = labels_of(session, run).concepts
    if not concepts:
        raise NotFoundError("no sample of this run has a concept", place=run, hint="steercache query runs_overview")
    return list(concepts)


def selected_rows(session: Session, request: FitRequest, *, run: str | None, concept: str | None) -> Selection:
    """The rows of one concept that a request means. Raises UsageError, QueryError, NotFoundError."""
    bindings = {k: v for k, v in request.bindings.items() if k not in ("run", "site")}
    if concept:
        if "concept" in bindings:
            raise UsageError("the concept is given twice", hint="give it once, or as the query's parameter")
        bindings["concept"] = concept
    query = request.query
    if query is None:
        assert run is not None
        query = labels_of(session, run, bindings.get("concept")).query
    site = request.bindings.get("site", request.site)
    sel = session.select_isolated(query, run=run, site=site, bindings=bindings, where=request.where)
    if sel.concept is None and sel.pair is not None:
        found = session.sql(_CONCEPTS_OF, run=sel.run_id, samples=sorted(set(sel.sample_idx.tolist()))).fetchall()
        if len(found) == 1 and found[0][0]:
            return replace(sel, concept=found[0][0])
    return sel


def _name(session: Session, request: FitRequest, sel: Selection, method: MethodName) -> str | None:
    """The name to save under; None for the default, which begins with the concept."""
    if request.name or sel.concept or sel.pair is None:
        return request.name
    run_name = session.cache.name_of(sel.run_id)  # pairs without a concept: the query's name would be the same for all
    return vector_name(replace(sel, concept=run_name), method, request.recipe)


def siblings(session: Session, vector: SteeringVector) -> list[SteeringVector]:
    """The newest vectors of the same concept and run by other methods or recipes."""
    found: dict[tuple[str, Any], SteeringVector] = {}
    own = (vector.method, vector.provenance.get("recipe"))
    for stored in list_vectors(session.cache):
        other = stored.vector
        kind = (other.method, other.provenance.get("recipe"))
        same = other.concept == vector.concept and other.provenance.get("run_id") == vector.provenance.get("run_id")
        one_feature = (other.provenance.get("params") or {}).get("feature") is not None  # of an SAE vector's many
        if (
            same
            and not one_feature
            and kind != own
            and other.hidden_size == vector.hidden_size
            and other.site == vector.site
        ):
            found.setdefault(kind, other)
    return list(found.values())
