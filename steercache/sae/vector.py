"""A steering vector from an SAE: the mean of the decoder rows of the features that stand for a concept, at unit norm."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from steercache.core.errors import UsageError
from steercache.core.provenance import as_json, describe_rows, rows_digest
from steercache.core.selection import Selection
from steercache.core.vectors import LOCATED, SteeringVector
from steercache.sae.candidates import Encodes, LayerCandidates, candidate_columns, find_candidates
from steercache.sae.selection import N_KEEP, N_TOP
from steercache.sae.verdict import Verdict

METHOD: Final = "sae"
VerifiedBy = Literal["judge", "sheet", "unverified"]
FloatArray = npt.NDArray[np.float32]
_PACKAGES = ("numpy", "ml_dtypes", "torch", "sae-lens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Who looked at the features that a selection picked: a model, a person with a sheet, or nobody.

    `verdicts` are by layer and feature; a picked feature without one is not taken. `facts` (the judge's model, description of
    the concept) go into the vector's provenance; so does `located` (its address), which is no part of the vector's id.
    """

    by: VerifiedBy
    verdicts: tuple[Verdict, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    located: Mapping[str, Any] = field(default_factory=dict)

    def of(self, layer: int) -> dict[int, Verdict]:
        """Verdicts of one layer by feature; of several the last."""
        return {v.feature: v for v in self.verdicts if v.layer == layer}

    @property
    def without(self) -> tuple[Verdict, ...]:
        """Those that hold no verdict: the judge did not reply."""
        return tuple(v for v in self.verdicts if v.answer is None)


UNVERIFIED: Final = Verification(by="unverified")


def sae(
    sel: Selection,
    saes: Iterable[Encodes],
    *,
    selection: str = "paper",
    verification: Verification | None = None,
    name: str | None = None,
) -> SteeringVector:
    """Fit mean(decoder rows of the verified features) / its norm at the layer of every SAE where a feature was verified.

    `saes` are loaded SAEs (`load_sae`), one per layer. `selection` is paper, firing_rate or sparse_probe. `verification` says
    which of the picked features stand for the concept: from `judge`, from a sheet, or `UNVERIFIED`. A layer where no feature is
    left is not in the vector. Recipe: arXiv 2505.14071; rows of block l go into the SAE of its output, never into another's.

    Raises:
        UsageError: no verification; no feature is left at any layer; and as `find_candidates`.
    """
    found = find_candidates(sel, saes, selection=selection)
    return vector_of(sel, found, selection=selection, verification=verification, name=name)


def vector_of(
    sel: Selection,
    found: Sequence[LayerCandidates],
    *,
    selection: str,
    verification: Verification | None,
    name: str | None = None,
    only: tuple[int, int] | None = None,
) -> SteeringVector:
    """The vector of candidates that are found; `only` takes one (layer, feature) instead of the mean. Raises as `sae`."""
    if verification is None:
        raise UsageError(
            "nobody has said which features stand for the concept",
            hint="ask a judge, read the verdicts of a sheet, or take them unverified",
        )
    if only is not None:
        found = [one for one in found if one.layer == only[0]]
    kept = {one.layer: _kept(one, verification, only) for one in found}
    layers = tuple(layer for layer, features in kept.items() if features)
    if not layers:
        raise UsageError(_why_none(found, verification), place=sel.concept, hint=_remedy(found, verification))
    values = np.stack([mean_direction([one.decoder[f] for f in kept[one.layer]]) for one in found if kept[one.layer]])
    return SteeringVector(
        name=name or default_name(sel, selection, verification),
        method=METHOD,
        concept=sel.concept,
        site=sel.site,
        layers=layers,
        values=values,
        provenance=_provenance(sel, found, kept, selection=selection, verification=verification, only=only),
        fitted_on=sel.fitted_on,
    )


def feature_vectors(
    sel: Selection,
    found: Sequence[LayerCandidates],
    vector: SteeringVector,
    *,
    selection: str,
    verification: Verification,
) -> tuple[SteeringVector, ...]:
    """One vector per feature that `vector` is the mean of, each of one layer, at unit norm."""
    return tuple(
        vector_of(
            sel,
            found,
            selection=selection,
            verification=verification,
            name=f"{vector.name}-l{layer}-f{feature}",
            only=(layer, feature),
        )
        for layer in vector.layers
        for feature in features_of(vector, layer)
    )


def features_of(vector: SteeringVector, layer: int) -> tuple[int, ...]:
    """The features that an SAE vector is made of at one layer, best rank first.

    Raises:
        UsageError: it is no vector of an SAE.
    """
    columns = (vector.provenance.get("features") or {}).get(str(layer))
    if vector.method != METHOD or not isinstance(columns, Mapping):
        raise UsageError(f"{vector.name!r} was made by {vector.method!r}, not from features of an SAE")
    return tuple(f for f, selected in zip(columns["feature"], columns["selected"], strict=True) if selected)


def mean_direction(rows_kd: Sequence[FloatArray] | FloatArray) -> FloatArray:
    """Mean of decoder rows (k, d) brought to unit norm, shape (d,), computed in float64.

    Raises:
        UsageError: the rows cancel out.
    """
    mean = np.asarray(rows_kd, np.float64).mean(axis=0)
    norm = float(np.linalg.norm(mean))
    if not np.isfinite(norm) or norm == 0:
        raise UsageError(f"the {len(rows_kd)} decoder rows have no mean direction")
    direction: FloatArray = (mean / norm).astype(np.float32)
    return direction


def default_name(sel: Selection, selection: str, verification: Verification) -> str:
    """The concept, with what is not the usual way behind it.

    >>> from types import SimpleNamespace as Some
    >>> default_name(Some(concept="counting"), "firing_rate", UNVERIFIED)
    'counting-sae-firing-rate-unverified'
    """
    stem = sel.concept or sel.query.name or "vector"
    how = "" if selection == "paper" else f"-{selection.replace('_', '-')}"
    return f"{stem}-sae{how}{'-unverified' if verification.by == 'unverified' else ''}"


def _kept(found: LayerCandidates, verification: Verification, only: tuple[int, int] | None) -> tuple[int, ...]:
    """Features of a layer that were picked and verified, best rank first."""
    verdicts = verification.of(found.layer)
    kept = []
    for candidate in found.picked:
        verdict = verdicts.get(candidate.feature)
        said_yes = verification.by == "unverified" or (verdict is not None and verdict.answer == "yes")
        if said_yes and only in (None, (found.layer, candidate.feature)):
            kept.append(candidate.feature)
    return tuple(kept)


def _provenance(
    sel: Selection,
    found: Sequence[LayerCandidates],
    kept: Mapping[int, tuple[int, ...]],
    *,
    selection: str,
    verification: Verification,
    only: tuple[int, int] | None,
) -> Any:
    params = {"selection": selection, "n_keep": N_KEEP, "n_top": N_TOP if selection == "paper" else None}
    params |= {"feature": None if only is None else only[1]}
    assert sel.label is not None
    return as_json(
        {
            **describe_rows(sel, needs=_PACKAGES),
            "recipe": "paper" if selection == "paper" else "default",
            "params": params,
            "seed": None,
            "rows": {
                "digest": rows_digest(sel),
                "n": len(sel),
                "n_concept": int(np.count_nonzero(sel.label)),
                "n_samples": len(np.unique(sel.sample_idx)),
            },
            "saes": {str(one.layer): one.spec.identity() for one in found},
            LOCATED: {
                "saes": {str(one.layer): one.spec.record() for one in found},
                **({"verification": dict(verification.located)} if verification.located else {}),
            },
            "verification": {"by": verification.by, **verification.facts},
            "features": {str(one.layer): _columns(one, kept[one.layer], verification, only) for one in found},
        }
    )


def _columns(
    found: LayerCandidates, kept: tuple[int, ...], verification: Verification, only: tuple[int, int] | None
) -> dict[str, list[Any]]:
    """Every candidate of a layer with what became of it; of a vector of one feature that feature alone."""
    if only is not None:
        found = replace(found, candidates=tuple(c for c in found.candidates if c.feature == only[1]))
    verdicts = verification.of(found.layer)
    more = {}
    for c in found.candidates:
        verdict = verdicts.get(c.feature)
        more[c.feature] = {
            "selected": c.feature in kept,
            "verdict": None if verdict is None else verdict.answer,
            "judge": None if verdict is None else verdict.by,
            "prompt_version": None if verdict is None else verdict.prompt_version,
            "verdict_digest": None if verdict is None else verdict.digest,
            "explanation": None if verdict is None else verdict.explanation,
            "reason": _reason(c.reason, c.picked, verdict, verification),
        }
    return candidate_columns(found, more)


def _reason(reason: str, picked: bool, verdict: Verdict | None, verification: Verification) -> str:
    if not picked:
        return reason
    if verification.by == "unverified":
        return f"{reason}; not verified"
    if verdict is None:
        return f"{reason}; no verdict: the {verification.by} says nothing about it"
    if verdict.answer is None:
        return f"{reason}; no verdict: {verdict.problem}"
    return f"{reason}; {verdict.by}: {verdict.answer}"


def _why_none(found: Sequence[LayerCandidates], verification: Verification) -> str:
    n_picked = sum(len(one.picked) for one in found)
    if not n_picked:
        return f"no feature was picked at {_layers(found)}"
    answers = [
        v.answer for one in found for f, v in verification.of(one.layer).items() if f in {c.feature for c in one.picked}
    ]
    counted = ", ".join(f"{answers.count(a)} {a}" for a in ("no", "unclear") if answers.count(a))
    lacking = n_picked - sum(a is not None for a in answers)
    reasons = {v.problem for v in verification.without if v.problem}
    first = f" ({sorted(reasons)[0]})" if reasons else ""
    rest = f"{lacking} without a verdict{first}" if lacking else ""
    return f"none of {n_picked} picked features has the verdict yes: {', '.join(x for x in (counted, rest) if x)}"


def _remedy(found: Sequence[LayerCandidates], verification: Verification) -> str:
    if not any(one.picked for one in found):
        return "another selection, other layers, or more sentences"
    if verification.without:
        return "mend the endpoint and fit again: replies that came are kept"
    return "look at the features in a review sheet, or take another selection or other layers"


def _layers(found: Sequence[LayerCandidates]) -> str:
    return f"layer{'' if len(found) == 1 else 's'} {', '.join(str(one.layer) for one in found)}"
