"""What an arm takes of its settings, and that on its way into the sweep's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from steercache.benchmarks.task import EncodedQuestion
from steercache.cells.arms import ArmCell
from steercache.core.damage import Damage
from steercache.core.predictors import predictors_at
from steercache.core.trials import Choice, ChoiceRule
from steercache.sweeps.choosing import Answers, choose


def best_setting(settings: Sequence[ArmCell], asked: Sequence[EncodedQuestion], answers: Answers) -> ArmCell:
    """The arm's setting that `sweeps.choosing` takes on these questions."""
    ids, alphas = [s.cell.cell_id for s in settings], [s.cell.alpha for s in settings]
    return settings[choose(ids, alphas, [one.sample_id for one in asked], answers)]


def choice_of(
    setting: ArmCell,
    *,
    rule: ChoiceRule,
    n_cells: int,
    lineage: str | None = None,
    damage: Damage | None = None,
    details: Mapping[str, Any] | None = None,
) -> Choice:
    """The choice of an arm, as it is stored with its sweep; what the cell breaks (None for NaN) and the predictors of the
    vector at its layer are put into the details, and the names of several vectors together."""
    arm, more = setting.arm, dict[str, Any]()
    if damage is not None:
        more["damage"] = {k: v if v == v else None for k, v in asdict(damage).items()}
    known = None if arm.vector is None else predictors_at(arm.vector.diagnostics, setting.cell.layer)
    if known is not None:
        more["predictors"] = asdict(known)
    if arm.parts:
        more["vectors"] = [one.vector.name for one in arm.parts]
    return Choice(
        arm=arm.name,
        role=arm.role,
        cell_id=setting.cell.cell_id,
        rule=rule if n_cells > 1 else "single",
        n_cells=n_cells,
        vector_id=arm.vector_id if arm.parts else setting.cell.vector_id,
        control_of=arm.of,
        control_kind=arm.kind,
        method=arm.method,
        concept=arm.concept,
        lineage=lineage,
        details={**(details or {}), **more},
    )
