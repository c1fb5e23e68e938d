"""Conditions of recipes: a condition vector fitted on labelled prompts, and the threshold that tells them apart (CAST)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from steercache.api.fitting import FitRequest, run_of_request, selected_rows
from steercache.core.errors import UsageError
from steercache.core.ids import SHORT_ID
from steercache.core.vectors import SteeringVector
from steercache.fit import METHODS, diagnose
from steercache.fit.condition import Condition, find_condition
from steercache.fit.spread import RECIPE
from steercache.manifests.recipe import RecipeCondition, RecipeManifest
from steercache.queries.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCondition:
    """A condition with the vector that it compares with, which is saved."""

    vector: SteeringVector
    found: Condition

    @property
    def target(self) -> str:
        """All tokens of prompts that meet it, as SQL with the vector's id."""
        return replace(self.found, vector=self.vector.vector_id).target

    @property
    def source(self) -> Mapping[str, Any]:
        """What a use says of it: where it comes from, and how well it tells the prompts apart."""
        one = self.found
        said = f"{one.side} {one.threshold:g} with {self.vector.name} ({self.vector.vector_id[:SHORT_ID]})"
        return {"condition": f"cosine of the last token at layer {one.layer} {said}", "condition_f1": round(one.f1, 4)}


def fit_condition(
    session: Session, recipe: RecipeManifest, given: FitRequest, *, concept: str | None
) -> FittedCondition | None:
    """The condition of a recipe fitted on the pairs of `concept`, whose positive sides meet it; None where it has none.

    Raises:
        UsageError: a recipe with a condition and no concept, or the other way round; and as `fit.find_condition`.
    """
    how: RecipeCondition | None = recipe.condition
    if how is None:
        if concept is not None:
            raise UsageError(f"the recipe {recipe.name} steers every prompt", hint="leave the condition out")
        return None
    if concept is None:
        raise UsageError(
            f"the recipe {recipe.name} steers prompts that meet a condition",
            hint="name in `condition` the concept of pairs whose positive side meets it, and whose negative side does not",
        )
    asked = FitRequest(
        concept=concept,
        query=how.query,
        bindings=dict(how.parameters),
        run=given.run or given.bindings.get("run"),
        layers=given.layers,
        diagnose=given.diagnose,
    )
    run = run_of_request(session, replace(asked, query=None))
    sel = selected_rows(session, asked, run=run, concept=concept)
    vector = METHODS[how.method](sel, layers=asked.layers, name=f"{concept}-{recipe.name}-condition")
    vector = replace(vector, provenance=dict(vector.provenance) | {RECIPE: f"{recipe.name} condition"})
    if asked.diagnose:
        vector = diagnose(sel, vector)
    session.save(vector)
    return FittedCondition(vector=vector, found=find_condition(sel, vector))
