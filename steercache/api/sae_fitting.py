"""Vectors from SAE features by concept: candidates, evidence, verdicts, and the vector. What `Cache.fit("sae", ...)` does."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from steercache.api.fitting import FitRequest, check_request, concepts_of, run_of_request, selected_rows, siblings
from steercache.api.progress import ProgressCallback, ProgressLike, reporting
from steercache.core.errors import SteercacheWarning, UsageError
from steercache.core.selection import Selection
from steercache.core.vectors import SteeringVector
from steercache.fit import diagnose
from steercache.manifests.sae import SaeManifest
from steercache.queries.session import Session
from steercache.sae.again import sae_records
from steercache.sae.candidates import LayerCandidates, find_candidates
from steercache.sae.contexts import top_contexts, whole_encoding
from steercache.sae.endpoint import PARAMETERS, JudgeEndpoint
from steercache.sae.evidence import Evidence
from steercache.sae.find import find_saes
from steercache.sae.fits_run import check_fits
from steercache.sae.health_limits import DEFAULT_LIMITS
from steercache.sae.judge import judge as ask_judge
from steercache.sae.loaded import LoadedSae
from steercache.sae.loading import load_sae
from steercache.sae.neuronpedia import read_neuronpedia
from steercache.sae.replies import ReplyFiles
from steercache.sae.review import read_sheet, write_sheet
from steercache.sae.vector import UNVERIFIED, Verification, feature_vectors, features_of, vector_of

if TYPE_CHECKING:
    from steercache.sae.verdict import Verdict

SelectionName = Literal["paper", "firing_rate", "sparse_probe"]
SaeLike = str | os.PathLike[str] | SaeManifest | LoadedSae


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeOptions:
    """What a fit needs beside its rows; see `Cache.fit`. Of `judge`, `verdicts` and `unverified` exactly one is given."""

    sae: SaeLike
    selection: SelectionName = "paper"
    judge: JudgeEndpoint | None = None
    verdicts: Path | None = None
    unverified: bool = False
    evidence: Path | None = None
    meaning: str | None = None
    per_feature: bool = False
    allow_foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layers:
    """What was found for one concept, layer after layer, with the evidence on the features that were picked."""

    sel: Selection = field(repr=False)
    found: list[LayerCandidates] = field(default_factory=list)
    evidence: dict[tuple[int, int], Evidence] = field(default_factory=dict)
    explained: dict[int, float] = field(default_factory=dict)

    @property
    def concept(self) -> str:
        """What the judge is asked about."""
        return self.sel.concept or self.sel.query.name or "this concept"


def sae_options(
    sae: SaeLike | None,
    *,
    selection: SelectionName = "paper",
    judge: JudgeEndpoint | None = None,
    verdicts: str | os.PathLike[str] | None = None,
    unverified: bool = False,
    evidence: str | os.PathLike[str] | None = None,
    meaning: str | None = None,
    per_feature: bool = False,
    allow_foreign: bool = False,
) -> SaeOptions:
    """The options of `Cache.fit` and `Cache.review_sae`. Raises UsageError where no SAE is named."""
    if sae is None:
        raise UsageError("a fit from an SAE needs one", hint="name its manifest or folder in `sae`")
    return SaeOptions(
        sae=sae,
        selection=selection,
        judge=judge,
        verdicts=None if verdicts is None else Path(verdicts),
        unverified=unverified,
        evidence=None if evidence is None else Path(evidence),
        meaning=meaning,
        per_feature=per_feature,
        allow_foreign=allow_foreign,
    )


def fit_sae_vectors(
    session: Session, request: FitRequest, options: SaeOptions, *, progress: ProgressLike = None
) -> list[SteeringVector]:
    """Find, verify, fit, diagnose and save; see `Cache.fit`. With `per_feature` vectors of single features follow their mean.

    Warns of candidates that have no verdict, and of an SAE that explains little of the rows.
    """
    _check(options)
    check_request(request)
    fitted = []
    with reporting(progress) as show:
        for layers in _candidates(session, request, options, with_evidence=options.judge is not None, show=show):
            verification = _verified(session, layers, options, show)
            vectors = _vectors(layers, verification, request, options)
            for vector in vectors:
                measured = _diagnosed(session, layers, vector) if request.diagnose else vector
                session.save(measured)
                fitted.append(measured)
    return fitted


def review_sheets(
    session: Session, request: FitRequest, options: SaeOptions, *, path: Path, progress: ProgressLike = None
) -> tuple[Path, Path]:
    """Write the review sheet of one concept, as CSV and Markdown; see `Cache.review_sae`."""
    check_request(replace(request, all_concepts=False))
    with reporting(progress) as show:
        (layers,) = _candidates(session, request, options, with_evidence=True, show=show)
    return write_sheet(path, layers.found, layers.evidence, concept=layers.concept)


def judge_endpoint(
    base_url: str,
    model: str,
    *,
    key_variable: str,
    parameters: Mapping[str, Any] | None = None,
    timeout_s: float,
    concurrency: int,
) -> JudgeEndpoint:
    """A judge's endpoint; without `parameters` the usual ones. Raises UsageError as `JudgeEndpoint`."""
    return JudgeEndpoint(
        base_url=base_url,
        model=model,
        key_variable=key_variable,
        parameters=PARAMETERS if parameters is None else parameters,
        timeout_s=timeout_s,
        concurrency=concurrency,
    )


def verdict_counts(vector: SteeringVector) -> dict[str, int]:
    """How many picked features of an SAE vector have which verdict; "none" counts those without."""
    counts = dict.fromkeys(("yes", "no", "unclear", "none"), 0)
    for columns in (vector.provenance.get("features") or {}).values():
        for picked, verdict in zip(columns["picked"], columns["verdict"], strict=True):
            if picked:
                counts[verdict or "none"] += 1
    return counts


def n_features(vector: SteeringVector) -> list[int]:
    """How many features an SAE vector is made of at each of its layers."""
    return [len(features_of(vector, layer)) for layer in vector.layers]


def described(vector: SteeringVector) -> dict[str, str]:
    """The SAEs and features of a vector, in words by what they are. Provenance is free JSON and may hold anything."""
    try:
        records = sae_records(vector)
        counts, n = verdict_counts(vector), sum(n_features(vector))
        params, by = vector.provenance["params"], vector.provenance["verification"]["by"]
    except (UsageError, KeyError, TypeError, ValueError):
        return {"feature": str(vector.provenance.get("feature", "-"))}
    names = ", ".join(str(record.get("name") or record.get("sae_id")) for record in records.values())
    verdicts = ", ".join(f"{n} {'without' if what == 'none' else what}" for what, n in counts.items() if n)
    said = "not verified" if by == "unverified" else f"verdicts of the {by}: {verdicts}"
    return {"SAE": names, "features": f"{n} of {sum(counts.values())} that {params.get('selection')} picked; {said}"}


def _check(options: SaeOptions) -> None:
    ways = [options.judge is not None, options.verdicts is not None, options.unverified]
    if sum(ways) != 1:
        raise UsageError(
            "a fit from an SAE needs one way to verify its features" + ("" if not any(ways) else ", not several"),
            hint="a `judge`, the `verdicts` of a review sheet, or `unverified`",
        )


def _saes(options: SaeOptions, layers: Sequence[int] | None, kept: Sequence[int]) -> Iterator[LoadedSae]:
    """The SAEs of the requested layers, or of all layers that the run kept, loaded one after the other."""
    if isinstance(options.sae, LoadedSae):
        yield options.sae
        return
    for found in find_saes(options.sae, layers=layers):
        if layers is None and found.layer is not None and found.layer not in kept:
            continue
        yield load_sae(found.manifest, layer=found.layer, base_dir=found.base_dir)


def _candidates(
    session: Session, request: FitRequest, options: SaeOptions, *, with_evidence: bool, show: ProgressCallback
) -> list[_Layers]:
    """Candidates of every requested concept. Each SAE is loaded once."""
    run = run_of_request(session, request)
    concepts = concepts_of(session, run) if request.all_concepts and run is not None else [request.concept]
    several = [_Layers(sel=selected_rows(session, request, run=run, concept=concept)) for concept in concepts]
    first = several[0].sel
    for n_done, sae in enumerate(_saes(options, request.layers, first.layers)):
        show("encoding the rows", n_done, None)
        check_fits(sae.spec, session.cache, first.run_id, allow_foreign=options.allow_foreign)
        for one in several:
            (found,) = find_candidates(one.sel, [sae], selection=options.selection)
            one.found.append(found)
            one.explained[found.layer] = _explained(sae, one.sel, found.layer)
            if with_evidence:
                one.evidence.update(_evidence(session, one.sel, sae, found, options))
    for one in several:
        if not one.found:
            raise UsageError("no SAE of a layer that the run kept", place=f"run {one.sel.run_id}")
        one.found.sort(key=lambda at: at.layer)
    return several


def _explained(sae: LoadedSae, sel: Selection, layer: int) -> float:
    """Share of the variance of the fit's rows that the SAE's reconstruction keeps.

    Raises:
        UsageError: it keeps nothing.
    """
    import torch

    x_nd = np.array(sel.gather(layer))
    parts = [sae.reconstruct(torch.from_numpy(x_nd[at : at + 512])).cpu().numpy() for at in range(0, len(x_nd), 512)]
    total = float(((x_nd - x_nd.mean(axis=0, dtype=np.float64)) ** 2).sum())
    explained = 1 - float(((x_nd.astype(np.float64) - np.concatenate(parts)) ** 2).sum()) / total if total > 0 else 0.0
    if not explained > DEFAULT_LIMITS.refuse_explained_variance:
        raise UsageError(
            f"the SAE explains none of the variance of these rows ({explained:.2f}) at layer {layer}",
            place=sae.spec.name,
            hint="it was trained on other activations: look at model, layer and dtype of the run",
        )
    if explained < DEFAULT_LIMITS.warn_explained_variance:
        message = f"{sae.spec.name} explains {explained:.0%} of the variance of these rows at layer {layer}"
        warnings.warn(f"{message}: its features may mean little here", SteercacheWarning, stacklevel=2)
    return explained


def _evidence(
    session: Session, sel: Selection, sae: LoadedSae, found: LayerCandidates, options: SaeOptions
) -> dict[tuple[int, int], Evidence]:
    """What is known of the features that were picked: an export's, and where that has nothing the run's own texts."""
    wanted = [c.feature for c in found.picked]
    known = read_neuronpedia(options.evidence, sae.spec, wanted) if options.evidence is not None else {}
    rest = [f for f in wanted if f not in known or not known[f].contexts]
    encoded = whole_encoding(session.cache.paths, sae, sel.source) if rest else None
    own = top_contexts(session, sel.source, sae, rest, encoded=encoded) if rest else {}
    for f, evidence in own.items():
        known[f] = replace(evidence, explanation=known[f].explanation) if f in known else evidence
    return {(found.layer, f): evidence for f, evidence in known.items()}


def _verified(session: Session, layers: _Layers, options: SaeOptions, show: ProgressCallback) -> Verification:
    if options.unverified:
        return UNVERIFIED
    if options.verdicts is not None:
        return read_sheet(options.verdicts, layers.found)
    assert options.judge is not None
    asked = [layers.evidence[one.layer, c.feature] for one in layers.found for c in one.picked]
    verdicts = ask_judge(
        asked,
        layers.concept,
        options.judge,
        replies=ReplyFiles(session.cache.root),
        description=options.meaning,
        progress=show,
    )
    _warn_of_missing(verdicts, layers.concept)
    facts = {"model": options.judge.model, "meaning": options.meaning}
    located = {"endpoint": options.judge.base_url}
    return Verification(by="judge", verdicts=verdicts, facts=facts, located=located)


def _warn_of_missing(verdicts: "Sequence[Verdict]", concept: str) -> None:
    lacking = [v for v in verdicts if v.answer is None]
    if lacking and len(lacking) < len(verdicts):  # where none has one, the fit fails and says so
        message = f"{concept}: {len(lacking)} of {len(verdicts)} picked features have no verdict and are left out"
        warnings.warn(f"{message}; the first: {lacking[0].problem}", SteercacheWarning, stacklevel=2)


def _vectors(
    layers: _Layers, verification: Verification, request: FitRequest, options: SaeOptions
) -> list[SteeringVector]:
    """The mean of the verified features, and with `per_feature` a vector of each."""
    how = {"selection": options.selection, "verification": verification}
    vector = vector_of(layers.sel, layers.found, name=request.name, **how)  # type: ignore[arg-type]
    if not options.per_feature:
        return [vector]
    return [vector, *feature_vectors(layers.sel, layers.found, vector, **how)]  # type: ignore[arg-type]


def _diagnosed(session: Session, layers: _Layers, vector: SteeringVector) -> SteeringVector:
    measured = diagnose(layers.sel, vector, others=siblings(session, vector))
    by_layer = [{**d, "sae_explained": layers.explained[d["layer"]]} for d in measured.diagnostics]
    return replace(measured, diagnostics=tuple(by_layer))
