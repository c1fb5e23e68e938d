"""The best features of a screening, run exactly on the test split beside random live ones of the same layers and strengths.

Screening chose on the search split, so the test split is asked once about what it chose. A random feature is added or
subtracted as its own prediction says, as a best one is: what differs is only which feature it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.task import Progress
from steercache.cache.feature_files import Encoding, all_encodings
from steercache.cache.feature_rows import EncodedRows, groups_of
from steercache.cells.options import ControlOptions, EvalOptions, GridAxes
from steercache.core.errors import UsageError
from steercache.data.benchmarks.questions import Benchmark
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.sae.controls import N_NEAREST
from steercache.sae.encode import encode_run
from steercache.sae.loaded import LoadedSae
from steercache.sae.single import feature_vector
from steercache.screening.features import predict_features
from steercache.screening.sae_decoders import SaeDecoders
from steercache.screening.sae_screen import Feature, ScreenedSae
from steercache.sweeps.evaluation import evaluate

Group = Literal["best", "random"]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactFeature:
    """One feature, predicted on the search split and run on the test split.

    `rate` is the share of the live run's rows in which it fires, `alpha` its strength along the unit decoder row. `predicted`
    and `exact` are shares of right answers, `predicted_gain` and `exact_gain` over the unsteered model on the same questions,
    `low` to `high` a 95 % interval of the exact gain; `sweep_id` is the stored evaluation.
    """

    group: Group
    layer: int
    feature: int
    alpha: float
    rate: float
    predicted: float
    predicted_gain: float
    exact: float
    exact_gain: float
    low: float
    high: float
    sweep_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactFeatures:
    """Both groups, on `n` questions of the test split of which `baseline` is right unsteered. Features are live on
    `live_runs`, by layer. `n_computed` answers were computed now, the others read."""

    rows: tuple[ExactFeature, ...]
    live_runs: Mapping[int, str]
    n: int
    baseline: float
    n_computed: int
    notes: tuple[str, ...] = ()

    def gains(self, group: Group) -> tuple[float, float]:
        """Mean predicted and mean exact gain of a group; NaN for an empty one."""
        some = [(r.predicted_gain, r.exact_gain) for r in self.rows if r.group == group]
        mean = np.mean(some, axis=0) if some else (np.nan, np.nan)
        return float(mean[0]), float(mean[1])


def run_exactly(
    session: Session,
    loaded: LoadedModel,
    benchmark: Benchmark,
    screened: ScreenedSae,
    decoders: SaeDecoders,
    *,
    count: int,
    run: str | None = None,
    n: int | None = None,
    seed: int = 0,
    allow_foreign: bool = False,
    progress: Progress | None = None,
) -> ExactFeatures:
    """Run the `count` best features and as many random live ones, at the same strengths, on `n` questions of the test split.

    Live are features that fire on `run`, which is encoded if it is not yet (None: on a run that is encoded already). For every
    best feature one is drawn among the live ones of its layer whose firing rate is nearest.

    Raises:
        UsageError: no run says which features are live, too few are, or the SAE does not fit the run; and as
            `evaluation.evaluate`.
    """
    best = screened.best(count)
    by_layer: dict[int, list[tuple[Group, int]]] = {}
    for row in best:
        by_layer.setdefault(row.layer, []).append(("best", row.feature))
    rows: list[ExactFeature] = []
    live_runs: dict[int, str] = {}
    baseline, n_asked, n_computed = 0.0, 0, 0
    notes: list[str] = []
    for layer, some in sorted(by_layer.items()):
        sae = decoders.loaded(layer)
        encoding = _encoding(session, sae, run, allow_foreign=allow_foreign)
        live_runs[layer] = encoding.document.run_id
        counts = firing_counts(encoding)
        own = [f for _, f in some]
        drawn = of_like_rate(counts, own, seed=[seed, layer])
        groups: list[tuple[Group, int]] = [*some, *(("random", f) for f in drawn)]
        predicted = predict_features(
            screened.gradients, sae.decoder, screened.target, layer, [f for _, f in groups], step=screened.step
        )
        origin = session.cache.source(encoding.document.run_id).fitted_on
        vectors = [feature_vector(sae, e.feature, sign=1 if e.alpha > 0 else -1, origin=origin) for e in predicted]
        axes = GridAxes(layers=(layer,), alphas=(abs(predicted[0].alpha),), targets=(screened.target,))
        options = EvalOptions(
            axes=axes,
            controls=ControlOptions(count=0),
            split="test",
            n=n,
            prompting="",
            damage=False,
            seed=seed,
            allow_foreign=allow_foreign,
        )
        for vector in vectors:
            session.save(vector)
        result = evaluate(session, loaded, benchmark, vectors=vectors, options=options, progress=progress)
        baseline, n_asked = result.baseline["test"], result.n_samples["test"]
        n_computed += result.n_computed
        notes += result.notes
        for (group, feature), effect, vector in zip(groups, predicted, vectors, strict=True):
            found = result.table.row("test", vector.name)
            assert found is not None
            gain = found.comparison.gain
            rows.append(
                ExactFeature(
                    group=group,
                    layer=layer,
                    feature=feature,
                    alpha=effect.alpha,
                    rate=float(counts[feature]) / max(1, encoding.n_rows),
                    predicted=effect.accuracy,
                    predicted_gain=effect.gain,
                    exact=found.comparison.after,
                    exact_gain=gain.estimate,
                    low=gain.low,
                    high=gain.high,
                    sweep_id=result.sweep_id,
                )
            )
    order: dict[Feature, int] = {row.place: at for at, row in enumerate(best)}
    rows.sort(key=lambda r: (r.group, order.get((r.layer, r.feature), 0)))
    return ExactFeatures(
        rows=tuple(rows),
        live_runs=live_runs,
        n=n_asked,
        baseline=baseline,
        n_computed=n_computed,
        notes=tuple(dict.fromkeys(notes)),
    )


def firing_counts(encoding: Encoding) -> Counts:
    """In how many of the encoded rows each feature fires, (f,)."""
    n_features = EncodedRows(encoding).n_features
    counts: Counts = np.zeros(n_features, dtype=np.int64)
    for record in encoding.fresh.values():
        for batch in groups_of(encoding.paths, record):
            counts += np.bincount(batch["feature"], minlength=n_features)
    return counts


def of_like_rate(counts: Counts, own: Sequence[int], *, seed: Sequence[int]) -> list[int]:
    """For each of `own` another feature that fires, drawn among the `N_NEAREST` whose count is nearest; none twice.

    Raises:
        UsageError: fewer others fire than are needed.
    """
    rng = np.random.default_rng(list(seed))
    free = np.setdiff1d(np.flatnonzero(counts), np.asarray(own, dtype=np.int64))
    if len(free) < len(own):
        raise UsageError(f"{len(free)} other features fire on the run, and {len(own)} are needed")
    taken = []
    for f in own:
        nearest = free[np.argsort(np.abs(counts[free] - counts[f]), kind="stable")[:N_NEAREST]]
        taken.append(int(rng.choice(nearest)))
        free = free[free != taken[-1]]
    return taken


def _encoding(session: Session, sae: LoadedSae, run: str | None, *, allow_foreign: bool) -> Encoding:
    """The rows that say which features are live: those of `run`, or of the encoding that has most."""
    cache = session.cache
    if run is not None:
        return encode_run(cache, sae, cache.resolve_run(run), allow_foreign=allow_foreign).encoding
    known = [e for e in all_encodings(cache.paths)[0] if e.document.sae.sae_id == sae.spec.sae_id and e.n_rows]
    if not known:
        raise UsageError(
            f"no run is encoded with the SAE {sae.spec.name!r}, so which of its features are live is not known",
            hint="name a run of the cache in `live`",
        )
    return max(known, key=lambda e: (e.n_rows, e.document.run_id))
