"""Recipes of papers carried out on runs of a cache: fit, spread over layers, say how to use. What `Cache.fit_recipe` does."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from steercache.api.conditions import FittedCondition, fit_condition
from steercache.api.fitting import FitRequest, MethodName, fit_vectors
from steercache.api.progress import ProgressLike
from steercache.api.sae_fitting import SaeOptions, fit_sae_vectors
from steercache.core.errors import UsageError
from steercache.core.operations import OF_PLANES, read_operation
from steercache.core.selection import Selection
from steercache.core.vector_use import VectorUse
from steercache.core.vectors import SteeringVector
from steercache.fit import diagnose
from steercache.fit.spread import RECIPE, best_layer, spread
from steercache.manifests.load import find_manifest, manifest_files, read_manifest
from steercache.manifests.recipe import RecipeManifest
from steercache.queries.session import Session

RecipeLike = str | os.PathLike[str] | RecipeManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRequest:
    """What a recipe is carried out on: `fit` names concept, run, query, layers and name; what it leaves out the recipe says.

    `from_layer` is the layer whose direction a recipe for all layers takes; None: the one with the highest held-out AUC.
    `condition` is the concept of the pairs that a condition is fitted on, for recipes that have one.
    """

    fit: FitRequest
    from_layer: int | None = None
    sae: SaeOptions | None = None
    condition: str | None = None


def find_recipe(recipe: RecipeLike) -> RecipeManifest:
    """A recipe by name or file. Raises NotFoundError, ManifestError."""
    if isinstance(recipe, RecipeManifest):
        return recipe
    path = recipe if isinstance(recipe, str) else Path(recipe)
    found = read_manifest(find_manifest(path, kind="recipe", search=(Path(),)), kind="recipe")
    assert isinstance(found, RecipeManifest)
    return found


def shipped_recipes() -> list[RecipeManifest]:
    """The recipes that ship, by name."""
    found = [read_manifest(path) for path in manifest_files() if path.parent.name == "recipes"]
    return sorted((one for one in found if isinstance(one, RecipeManifest)), key=lambda one: one.name)


def recipe_facts() -> list[dict[str, Any]]:
    """Every shipped recipe: {"name", "summary", "formula", "method", "use", "source", "command", "differs", "tested_by"}."""
    return [
        {
            "name": one.name,
            "summary": one.summary,
            "formula": one.formula,
            "method": one.fit.method,
            "use": str(_use(one, layers=None)),
            "source": source_of(one),
            "command": f"steercache fit recipe {one.name} --concept counting"
            + (" --sae smollm2-135m-l15 --unverified" if one.fit.method == "sae" else "")
            + (" --condition cooking" if one.condition is not None else ""),
            "differs": list(one.differs),
            "tested_by": one.tested_by,
        }
        for one in shipped_recipes()
    ]


def source_of(recipe: RecipeManifest) -> str:
    """The paper in one line."""
    paper = recipe.paper
    return (
        f"{paper.title} (arXiv {paper.arxiv})"
        if paper.arxiv
        else f"{paper.title}{f' ({paper.code})' * bool(paper.code)}"
    )


def fit_recipe(
    session: Session, recipe: RecipeManifest, request: RecipeRequest, *, progress: ProgressLike = None
) -> list[SteeringVector]:
    """Fit, finish and save; see `Cache.fit_recipe`."""
    how = recipe.fit
    if request.from_layer is not None and how.layers != "best":
        raise UsageError(
            f"the recipe {recipe.name} has a direction of its own at every layer",
            hint="choose the layers to fit, and the layer when the vector is used",
        )
    given = request.fit
    if how.layers == "best" and request.from_layer is None and not given.diagnose:
        raise UsageError(
            "without held-out scores no layer can be chosen", hint="name the layer whose direction is taken"
        )
    asked = replace(
        given,
        query=given.query or how.query,
        bindings=dict(how.parameters) | dict(given.bindings),
        run=given.run or given.bindings.get("run") or _run_with_pictures(session, recipe, given),
        site=how.site,
        recipe=how.way,
        seed=how.seed,
        top=how.top,
    )
    if how.reads == "pictures":
        _check_reads_pictures(session, recipe, str(asked.run))
    if how.method == "sae":
        if request.sae is None:
            raise UsageError(
                f"the recipe {recipe.name} takes features of an SAE", hint="name its manifest or folder in `sae`"
            )
        made = fit_sae_vectors(session, asked, request.sae, progress=progress)
        used = [replace(one, use=_use(recipe, layers=one.layers)) for one in made]
        for one in used:
            session.save(one)
        return used

    condition = fit_condition(session, recipe, given, concept=request.condition)

    def finish(sel: Selection, vector: SteeringVector) -> SteeringVector:
        return finished(recipe, sel, vector, request, condition)

    method: MethodName = how.method
    return fit_vectors(session, method, asked, finish=finish, progress=progress)


def finished(
    recipe: RecipeManifest,
    sel: Selection,
    vector: SteeringVector,
    request: RecipeRequest,
    condition: FittedCondition | None = None,
) -> SteeringVector:
    """A fitted vector as the recipe has it: spread over the layers, with its use and a name that ends in the recipe's.

    Its provenance names the recipe, so that it is another vector than what the method alone gives on the same rows.
    """
    vector = replace(vector, provenance=dict(vector.provenance) | {RECIPE: recipe.name})
    if recipe.fit.layers == "best":
        layer = best_layer(vector) if request.from_layer is None else request.from_layer
        vector = spread(vector, layer)
        if request.fit.diagnose:
            vector = diagnose(sel, vector)
    in_plane = read_operation(recipe.use.operation).name in OF_PLANES  # one plane for all layers
    every = recipe.fit.layers == "best" or recipe.fit.method == "head_probes" or in_plane
    name = request.fit.name or f"{vector.concept or vector.name}-{recipe.name}"
    use = _use(recipe, layers=vector.layers if every else None)
    if condition is not None:
        use = replace(use, target=condition.target, source={**use.source, **condition.source})
    return replace(vector, name=name, use=use)


def _use(recipe: RecipeManifest, *, layers: Sequence[int] | None) -> VectorUse:
    operation, use = read_operation(recipe.use.operation), recipe.use
    return VectorUse(
        operation=operation.name,
        parameters={one.name: float(getattr(operation, one.name)) for one in fields(operation)},
        place=use.place,
        layers=None if layers is None else tuple(layers),
        strength=use.strength,
        strength_unit=use.strength_unit,
        target=use.target,
        phase=use.phase,
        skip_first=use.skip_first,
        source={"recipe": recipe.name, "paper": source_of(recipe)},
    )


def _run_with_pictures(session: Session, recipe: RecipeManifest, given: FitRequest) -> str | None:
    if recipe.fit.reads != "pictures":
        return None
    return session.newest_run(given.concept or given.bindings.get("concept"), modality="multimodal")


def _check_reads_pictures(session: Session, recipe: RecipeManifest, run: str) -> None:
    run_id = session.cache.resolve_run(run)
    if session.cache.run_document(run_id).model.modality != "image":
        raise UsageError(
            f"the recipe {recipe.name} takes rows of a model that reads pictures, and the run's model reads text",
            place=session.cache.name_of(run_id),
            hint="trace the sentences with the multimodal model, and name that run",
        )
