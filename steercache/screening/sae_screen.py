"""Which features of SAEs matter for a task: all decoder rows predicted from gradients, beside those chosen by sentences."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from steercache.benchmarks.task import EncodedQuestion, Progress
from steercache.cache.handle import CacheFolder
from steercache.core.saes import SaeSpec
from steercache.core.trials import Target
from steercache.queries.session import Session
from steercache.screening.features import N_PREDICTED, STEP, ScreenedFeatures, screen_features
from steercache.screening.gradient_plan import GradientRequest
from steercache.screening.gradient_source import GradientSource, ensure_gradients
from steercache.screening.gradient_store import StoredGradients
from steercache.screening.sae_decoders import SaeDecoders
from steercache.stats.exact import overlap_p

Feature = tuple[int, int]
"""Layer and number of a feature."""
ChosenBy = Literal["sentences", "judge"]

_MARKS = """
SELECT layer, feature_idx, concept, bool_or(coalesce(verdict = 'yes', false))
FROM features
WHERE sae_id IN (SELECT unnest($saes)) AND picked AND concept IS NOT NULL AND ($concept IS NULL OR concept = $concept)
GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRow:
    """One feature with its prediction, as `features.FeatureEffect`: strength `alpha` along the unit decoder row, change of the
    mean answer margin (`shift`), share of right answers and its gain, questions helped and hurt. `picked` are the concepts for
    which a vector's fit in the cache chose it by sentences, `verified` those of them for which the verdict is yes."""

    layer: int
    feature: int
    alpha: float
    shift: float
    accuracy: float
    gain: float
    helped: int
    hurt: int
    picked: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()

    @property
    def place(self) -> Feature:
        """Layer and number."""
        return self.layer, self.feature


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How many of the `k` best features are among the `n_marked` that were chosen otherwise, of `n_features` in all.

    `share` is of the k best; `p` the probability that k features drawn at random have as many in common, or more (None where
    nothing was chosen otherwise)."""

    chosen_by: ChosenBy
    k: int
    n_features: int
    n_marked: int
    n_common: int
    share: float
    p: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedSae:
    """Every feature of the SAEs of some layers on one task: predictions, and what sentences and verdicts said of them.

    `rows` are the features whose accuracy was predicted, best first, `k` is how many of them count as best in `overlaps`;
    features with a decoder row of zeros are not among the `n_features`. Questions that cannot be screened are `n_left_out`.
    """

    name: str
    benchmark: str
    model: str
    target: Target | str
    step: float
    k: int
    concept: str | None
    saes: Mapping[int, SaeSpec] = field(repr=False)
    gradients: StoredGradients = field(repr=False)
    features: ScreenedFeatures = field(repr=False)
    rows: tuple[FeatureRow, ...] = field(repr=False)
    overlaps: tuple[Overlap, ...]
    n_features: int
    n_left_out: int

    @property
    def run_id(self) -> str:
        """The gradient run that the predictions were made from."""
        return self.gradients.document.run_id

    @property
    def n_samples(self) -> int:
        """Questions of the search split that were predicted."""
        return self.features.n_samples

    @property
    def base_accuracy(self) -> float:
        """Share of right unsteered answers by first-token margins."""
        return self.features.base_accuracy

    def best(self, n: int) -> tuple[FeatureRow, ...]:
        """The n best features by predicted accuracy, of equals by the change of the margin."""
        return self.rows[:n]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeTask:
    """Questions of the search split, and what is tried on them: every decoder row on one target, with strength `step` in
    median norms of its rows. The `k` best count in overlaps; marks are those of `concept` (None: of any)."""

    name: str
    benchmark: str
    target: Target | str
    asked: tuple[EncodedQuestion, ...] = field(repr=False)
    step: float = STEP
    k: int = 10
    concept: str | None = None


def screen_sae(
    session: Session,
    task: SaeTask,
    decoders: SaeDecoders,
    wanted: GradientSource,
    *,
    progress: Progress | None = None,
) -> ScreenedSae:
    """Screen all decoder rows; gradients that the cache lacks are recorded first.

    Raises:
        UsageError: an SAE that does not fit the model, a strength beyond what predictions hold for; and as
            `gradient_source.ensure_gradients`.
    """
    layers = tuple(decoders)
    decoders.loaded(layers[0])  # what does not fit is refused before gradients take their time
    wish = GradientRequest(benchmark=task.benchmark, layers=layers, targets=(task.target,))
    gradients = ensure_gradients(session, task.asked, wish, wanted, progress=progress)
    found = screen_features(
        gradients, decoders, task.target, step=task.step, n_predicted=max(N_PREDICTED, task.k), progress=progress
    )
    marks = marks_of(session.cache, decoders.specs, concept=task.concept)
    rows = tuple(
        FeatureRow(
            layer=e.layer,
            feature=e.feature,
            alpha=e.alpha,
            shift=e.shift,
            accuracy=e.accuracy,
            gain=e.gain,
            helped=e.helped,
            hurt=e.hurt,
            picked=marks.picked.get((e.layer, e.feature), ()),
            verified=marks.verified.get((e.layer, e.feature), ()),
        )
        for e in found.effects
    )
    n_features = sum(int(np.count_nonzero(shift)) for shift in found.shift.values())
    chosen: tuple[tuple[ChosenBy, Mapping[Feature, object]], ...] = (
        ("sentences", marks.picked),
        ("judge", marks.verified),
    )
    return ScreenedSae(
        name=task.name,
        benchmark=task.benchmark,
        model=wanted.bundle.spec.name,
        target=task.target,
        step=task.step,
        k=task.k,
        concept=task.concept,
        saes=dict(decoders.specs),
        gradients=gradients,
        features=found,
        rows=rows,
        overlaps=tuple(
            overlap(rows[: task.k], _there(marked, found), chosen_by=by, n_features=n_features) for by, marked in chosen
        ),
        n_features=n_features,
        n_left_out=gradients.n_left_out,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Features that vectors of the cache chose by sentences, and those that were verified, with their concepts."""

    picked: Mapping[Feature, tuple[str, ...]]
    verified: Mapping[Feature, tuple[str, ...]]


def marks_of(cache: CacheFolder, saes: Mapping[int, SaeSpec], *, concept: str | None = None) -> Marks:
    """What the table `features` says of SAEs by layer; of one concept, or of all."""
    picked: dict[Feature, tuple[str, ...]] = {}
    verified: dict[Feature, tuple[str, ...]] = {}
    with cache.connection() as con:
        found = con.execute(_MARKS, {"saes": [spec.sae_id for spec in saes.values()], "concept": concept}).fetchall()
    for layer, feature, name, said_yes in found:
        if layer not in saes:
            continue
        picked[layer, feature] = (*picked.get((layer, feature), ()), name)
        if said_yes:
            verified[layer, feature] = (*verified.get((layer, feature), ()), name)
    return Marks(picked=picked, verified=verified)


def _there(marked: Mapping[Feature, object], found: ScreenedFeatures) -> frozenset[Feature]:
    """Those of the marked features that were screened."""
    return frozenset((layer, f) for layer, f in marked if f < len(found.shift[layer]) and found.shift[layer][f] != 0)


def overlap(
    best: tuple[FeatureRow, ...], marked: frozenset[Feature], *, chosen_by: ChosenBy, n_features: int
) -> Overlap:
    """How many of the best features are among the marked ones."""
    common = sum(row.place in marked for row in best)
    p = overlap_p(common, len(best), n_marked=len(marked), n_all=n_features) if marked and best else None
    return Overlap(
        chosen_by=chosen_by,
        k=len(best),
        n_features=n_features,
        n_marked=len(marked),
        n_common=common,
        share=common / len(best) if best else 0.0,
        p=p,
    )
