"""What every setting of a grid would do, predicted from stored gradients: the model runs once to record them, never again.

A prediction is a straight line along a vector, or what a pilot (pilot.py) bends it to. Neither holds for ever: what is added is
measured in median norms of the rows it is added to, and beyond `TRUST` of them no more is promised than at that point (such
cells are marked, and rank behind their weaker sisters). Only the search split is ever screened: a prediction from the test
split's answers would be a look at it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

import numpy as np
import numpy.typing as npt

from steercache.cells.arms import ArmCell
from steercache.core.errors import UsageError
from steercache.core.trials import TRUST, Target
from steercache.screening.gradient_plan import GradientRequest
from steercache.screening.gradient_store import StoredGradients
from steercache.stats.choice import rank_cells
from steercache.steering.add import delta_of
from steercache.steering.margin_curve import MarginCurve, bent, likely_right
from steercache.steering.operations.change import change_of
from steercache.steering.screen import Prediction, answer_margins, margins_after, margins_after_all, predict

By = Literal["margin", "accuracy"]
Float32Array = npt.NDArray[np.float32]
Place = tuple[str, str, int, bool]  # vector, target, layer, and whether it is subtracted: cells that bend alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One setting. `shift` is the change of the mean answer margin, `accuracy` the share of margins above 0 afterwards (after a
    pilot the expected share, margins being known up to its spread), `helped` and `hurt` count samples whose margin grows or
    shrinks.

    `step` is the length of what is added in median norms of the target's rows (None where that is not known); `beyond` says
    that it is more than can be trusted, so that the numbers are those at the limit.
    """

    setting: ArmCell = field(repr=False)
    shift: float
    accuracy: float
    helped: int
    hurt: int
    step: float | None
    beyond: bool


def predict_settings(
    gradients: StoredGradients,
    settings: Sequence[ArmCell],
    *,
    trust: float = TRUST,
    bends: Mapping[Place, MarginCurve] | None = None,
) -> tuple[Predicted, ...]:
    """A prediction for every setting with a vector, in the order given; straight where `bends` has nothing of its place. Of
    several vectors together it is the sum of what each does to first order, and their steps add up.

    Raises:
        UsageError: a layer or target without gradients, a setting without a vector, a vector of another width, or an operation
            that has no first-order term here.
    """
    made = {id(s): _predict_combined(gradients, s, trust) for s in settings if s.arm.parts}
    plain = [s for s in settings if not s.arm.parts]
    for (target, layer), some in groupby(sorted(plain, key=_place_of), key=_place_of):
        made |= _predict_at(gradients, target, layer, list(some), trust)
    predicted = [made[id(s)] for s in settings]
    for place, at in by_place(settings).items():
        if bends is not None and place in bends:
            for i, one in zip(at, _bent(gradients, [predicted[i] for i in at], bends[place], trust), strict=True):
                predicted[i] = one
    return tuple(predicted)


def _bent(
    gradients: StoredGradients, straight: Sequence[Predicted], bend: MarginCurve, trust: float
) -> list[Predicted]:
    """Predictions at one place after a pilot."""
    settings = [one.setting for one in straight]
    base_n = answer_margins(gradients.screen(str(settings[0].cell.target))).astype(np.float64)
    steps_c = np.minimum([trust if one.step is None else one.step for one in straight], trust)
    changes_cn = bent(bend, steps_c, margins_of_settings(gradients, settings, trust=trust) - base_n)
    accuracy_c = likely_right(base_n + changes_cn, bend.spread_at(steps_c))
    return [
        replace(
            one,
            shift=float(changes_n.mean()),
            accuracy=float(accuracy),
            helped=int((changes_n > 0).sum()),
            hurt=int((changes_n < 0).sum()),
        )
        for one, changes_n, accuracy in zip(straight, changes_cn, accuracy_c, strict=True)
    ]


def by_place(settings: Sequence[ArmCell]) -> dict[Place, list[int]]:
    """Where the settings of every place stand."""
    places: dict[Place, list[int]] = {}
    for i, setting in enumerate(settings):
        cell = setting.cell
        layer = -1 if cell.layer is None else cell.layer
        places.setdefault((str(cell.vector_id), str(cell.target), layer, cell.alpha < 0), []).append(i)
    return places


def steps_of_settings(gradients: StoredGradients, settings: Sequence[ArmCell]) -> npt.NDArray[np.float64]:
    """How much each adds, in median norms of its target's rows (c,); NaN where that is not known."""
    return np.array([_step(s, gradients) for s in settings])


def _step(setting: ArmCell, gradients: StoredGradients) -> float:
    if setting.arm.parts:
        return _combined_step(gradients, _deltas(setting, gradients))
    length = abs(setting.cell.alpha) * float(np.linalg.norm(_unit_delta(setting, gradients)))
    norm = gradients.row_norm(*_place_of(setting))
    return length / norm if norm > 0 else float("nan")


def _place_of(setting: ArmCell) -> tuple[str, int]:
    return str(setting.cell.target), -1 if setting.cell.layer is None else setting.cell.layer


def _predict_at(
    gradients: StoredGradients, target: str, layer: int, settings: Sequence[ArmCell], trust: float
) -> dict[int, Predicted]:
    """Settings of one layer and target, by the identity of the setting; those of one vector share its row of the product."""
    by_vector: dict[tuple[int, str, float | None], list[ArmCell]] = {}
    for setting in settings:
        by_vector.setdefault((id(setting.arm.vector), setting.cell.alpha_unit, setting.cell.unit_norm), []).append(
            setting
        )
    units_vd = np.stack([_unit_delta(some[0], gradients) for some in by_vector.values()])
    asked_va = np.zeros((len(units_vd), max(map(len, by_vector.values()))), dtype=np.float32)
    for v, some in enumerate(by_vector.values()):
        asked_va[v, : len(some)] = [setting.cell.alpha for setting in some]
    found, steps_va = predict_layer(gradients, target, layer, units_vd, asked_va, trust=trust)
    made = {}
    for v, some in enumerate(by_vector.values()):
        for a, setting in enumerate(some):
            step = float(steps_va[v, a])
            made[id(setting)] = Predicted(
                setting=setting,
                shift=float(found.shift[0, v, a]),
                accuracy=float(found.accuracy[0, v, a]),
                helped=int(found.helped[0, v, a]),
                hurt=int(found.hurt[0, v, a]),
                step=None if np.isnan(step) else step,
                beyond=step > trust,
            )
    return made


def _predict_combined(gradients: StoredGradients, setting: ArmCell, trust: float) -> Predicted:
    """Several vectors together: the sum of what each moves, all shortened alike where the sum of their steps is beyond
    `trust`."""
    deltas = _deltas(setting, gradients)
    step = _combined_step(gradients, deltas)
    base_n = answer_margins(gradients.screen(deltas[0][0], (deltas[0][1],)))
    after_n = _combined_margins(gradients, deltas, trust)
    return Predicted(
        setting=setting,
        shift=float((after_n - base_n).mean()),
        accuracy=float((after_n > 0).mean()),
        helped=int((after_n > base_n).sum()),
        hurt=int((after_n < base_n).sum()),
        step=None if np.isnan(step) else step,
        beyond=step > trust,
    )


_Deltas = Sequence[tuple[str, int, Float32Array]]  # target, layer, what is added (d,)


def _deltas(setting: ArmCell, gradients: StoredGradients) -> _Deltas:
    width, found = gradients.document.model.hidden_size, []
    for of, at in zip(setting.arm.parts, setting.parts, strict=True):
        _check_linear(of.operation, of.place)
        if of.vector.hidden_size != width:
            raise UsageError(f"the vector {of.vector.name!r} is {of.vector.hidden_size} wide, the gradients {width}")
        change = change_of(of.vector, of.layer, alpha=of.alpha, alpha_unit=of.alpha_unit, row_norm=at.unit_norm)
        found.append((str(of.target), of.layer, change.delta_d))
    return found


def _combined_step(gradients: StoredGradients, deltas: _Deltas) -> float:
    """The sum of the steps, each in median norms of the rows of its own target; NaN where one is not known."""
    norms = [gradients.row_norm(target, layer) for target, layer, _ in deltas]
    if not all(norm > 0 for norm in norms):
        return float("nan")
    return sum(float(np.linalg.norm(delta)) / norm for (_, _, delta), norm in zip(deltas, norms, strict=True))


def _combined_margins(gradients: StoredGradients, deltas: _Deltas, trust: float) -> Float32Array:
    step = _combined_step(gradients, deltas)
    share = np.float32(trust / step if step > trust else 1.0)
    return margins_after_all(
        [(gradients.screen(target, (layer,)), layer, share * delta) for target, layer, delta in deltas]
    )


def predict_layer(
    gradients: StoredGradients,
    target: str,
    layer: int,
    units_vd: Float32Array,
    asked_va: Float32Array,
    *,
    trust: float = TRUST,
) -> tuple[Prediction, Float32Array]:
    """Predictions for strengths (v, a) of what is added per unit of strength (v, d), and the steps (v, a), NaN where the rows'
    norm is not known: beyond `trust` of them the prediction is that at the limit."""
    norm = gradients.row_norm(target, layer)
    lengths_v1 = np.linalg.norm(units_vd, axis=1)[:, None]
    steps_va = (np.abs(asked_va) * lengths_v1 / norm if norm > 0 else np.full_like(asked_va, np.nan)).astype(np.float32)
    with np.errstate(divide="ignore"):
        limit_v1 = np.float32(trust * norm) / lengths_v1  # the same number for every strength beyond it
    alphas_va = np.where(steps_va > trust, np.copysign(limit_v1, asked_va), asked_va).astype(np.float32)
    return predict(gradients.screen(target, (layer,)), units_vd, alphas_va[None]), steps_va


def _unit_delta(setting: ArmCell, gradients: StoredGradients) -> Float32Array:
    """What is added per unit of alpha, (d,)."""
    vector, layer = setting.arm.vector, setting.cell.layer
    if vector is None or layer is None:
        raise UsageError("a cell without a vector has no effect to predict")
    _check_linear(setting.cell.operation, setting.cell.site)
    width = gradients.document.model.hidden_size
    if vector.hidden_size != width:
        raise UsageError(f"the vector {vector.name!r} is {vector.hidden_size} wide, the gradients {width}")
    return delta_of(vector, layer, alpha=1.0, alpha_unit=setting.cell.alpha_unit, row_norm=setting.cell.unit_norm)


def _check_linear(operation: str, place: str = "resid_post") -> None:
    """Raises UsageError for an operation, or a place, whose effect does not follow from the gradients that are kept."""
    if place != "resid_post":
        raise UsageError(
            f"cells at {place} cannot be predicted: gradients are kept of the outputs of blocks",
            hint="run its cells without screening; predictions are for the place resid_post",
        )
    if operation != "add":
        raise UsageError(
            f"{operation.partition(':')[0]} cannot be predicted: what it does to a token depends on that token's hidden state, "
            "and gradients are kept summed over the target's tokens",
            hint="run its cells without screening; predictions are for the operation add",
        )


def _within(alpha: float, length: float, norm: float, trust: float) -> float:
    """The strength, or that at the limit of what can be trusted."""
    if not norm > 0 or not length > 0:
        return alpha
    limit = trust * norm / length
    return alpha if abs(alpha) <= limit else float(np.copysign(limit, alpha))


def margins_of_settings(
    gradients: StoredGradients, settings: Sequence[ArmCell], *, trust: float = TRUST
) -> Float32Array:
    """Predicted answer margin of every sample in every setting, (settings, n), at the limit where a setting is beyond it."""
    margins = np.empty((len(settings), len(gradients.samples)), dtype=np.float32)
    places: dict[tuple[str, int], list[int]] = {}
    for i, setting in enumerate(settings):
        if setting.arm.parts:
            margins[i] = _combined_margins(gradients, _deltas(setting, gradients), trust)
        else:
            places.setdefault(_place_of(setting), []).append(i)
    for (target, layer), some in places.items():
        norm = gradients.row_norm(target, layer)
        deltas = []
        for i in some:
            unit = _unit_delta(settings[i], gradients)
            alpha = _within(settings[i].cell.alpha, float(np.linalg.norm(unit)), norm, trust)
            deltas.append(np.float32(alpha) * unit)
        margins[some] = margins_after(gradients.screen(target, (layer,)), layer, np.stack(deltas))
    return margins


def ranked(predicted: Sequence[Predicted], *, by: By = "margin") -> tuple[Predicted, ...]:
    """Best first: the largest shift, or the most right answers and then the largest shift; of equals the smallest strength."""
    shifts, alphas = [one.shift for one in predicted], [one.setting.cell.alpha for one in predicted]
    scores = [shifts] if by == "margin" else [[one.accuracy for one in predicted], shifts]
    return tuple(predicted[i] for i in rank_cells(*scores, alphas=alphas)) if predicted else ()


def best_predicted(
    gradients: StoredGradients,
    settings: Sequence[ArmCell],
    k: int,
    *,
    by: By = "margin",
    trust: float = TRUST,
    bends: Mapping[Place, MarginCurve] | None = None,
) -> tuple[ArmCell, ...]:
    """The k settings predicted to be best, best first. Raises as `predict_settings`."""
    predicted = predict_settings(gradients, settings, trust=trust, bends=bends)
    return tuple(one.setting for one in ranked(predicted, by=by)[:k])


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEffect:
    """One sample under one setting: its answer margin before and after, as predicted."""

    sample_id: str
    place: str
    question: str
    choices: tuple[str, ...]
    answer: str
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


def sample_effects(
    gradients: StoredGradients, target: str, layer: int, delta_d: Float32Array, *, n: int, trust: float = TRUST
) -> Mapping[str, tuple[SampleEffect, ...]]:
    """The n samples that adding `delta_d` helps most ("helped", largest gain first), and those it hurts most ("hurt"); samples
    that it moves the other way are in neither list."""
    alpha = _within(1.0, float(np.linalg.norm(delta_d)), gradients.row_norm(target, layer), trust)
    screen = gradients.screen(target, (layer,))
    before, after = answer_margins(screen), margins_after(screen, layer, np.float32(alpha) * delta_d[None])[0]
    order = np.argsort(before - after, kind="stable")

    def effect(i: int) -> SampleEffect:
        one = gradients.samples[i]
        return SampleEffect(
            sample_id=one.sample_id,
            place=one.place,
            question=one.labels.question or "",
            choices=tuple(one.labels.choices),
            answer=one.labels.answer or "",
            before=float(before[i]),
            after=float(after[i]),
        )

    helped = [effect(int(i)) for i in order[:n] if after[i] > before[i]]
    hurt = [effect(int(i)) for i in order[::-1][:n] if after[i] < before[i]]
    return {"helped": tuple(helped), "hurt": tuple(hurt)}


def wish_of(benchmark: str, settings: Sequence[ArmCell]) -> GradientRequest:
    """The gradients that predictions for these settings need."""
    targets: tuple[Target | str, ...] = tuple(dict.fromkeys(part.target for s in settings for part in s.parts))
    layers = sorted({part.layer for s in settings for part in s.parts})
    clauses = {text: clause for s in settings for text, clause in s.clauses.items()}
    return GradientRequest(benchmark=benchmark, layers=tuple(layers), targets=targets, clauses=clauses)
