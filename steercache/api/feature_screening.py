"""Features of SAEs by what they would do to a task: what `Cache.screen_features` does."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steercache.analysis.exact_features import ExactFeature as ExactFeature
from steercache.analysis.exact_features import ExactFeatures, run_exactly
from steercache.api.evaluating import BenchmarkLike, opened_benchmark
from steercache.api.progress import ProgressLike, reporting
from steercache.benchmarks.task import check_can_ask, default_targets
from steercache.cache.documents import run_model
from steercache.cells.model import find_model
from steercache.core.trials import Target
from steercache.manifests.sae import SaeManifest
from steercache.queries.session import Session
from steercache.queries.token_clause import canonical_target
from steercache.sae.find import find_saes
from steercache.sae.loaded import LoadedSae
from steercache.screening.features import STEP as STEP
from steercache.screening.job import gradient_source
from steercache.screening.questions import name_of_task, search_questions
from steercache.screening.sae_decoders import SaeDecoders
from steercache.screening.sae_screen import FeatureRow as FeatureRow
from steercache.screening.sae_screen import Overlap as Overlap
from steercache.screening.sae_screen import SaeTask, ScreenedSae, screen_sae

if TYPE_CHECKING:
    from steercache.sae.find import FoundSae

SaeLike = str | os.PathLike[str] | SaeManifest | LoadedSae


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRequest:
    """Which features are predicted; see `Cache.screen_features`."""

    sae: SaeLike
    layers: tuple[int, ...] = ()
    target: Target | str | None = None
    step: float = STEP
    top: int = 10
    concept: str | None = None
    n: int | None = None
    allow_foreign: bool = False
    gradients: str | None = None
    force: bool = False
    exact: int = 0
    live: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureReport:
    """The screening of all features, and the exact runs of the best beside random live ones (None: not requested)."""

    screened: ScreenedSae
    exact: ExactFeatures | None = None

    def best(self, n: int) -> tuple[FeatureRow, ...]:
        """The n best features by predicted accuracy."""
        return self.screened.best(n)

    @property
    def overlaps(self) -> tuple[Overlap, ...]:
        """The best features among those chosen by sentences, and among those with a verdict yes."""
        return self.screened.overlaps


def screen_sae_features(
    session: Session,
    model: str,
    benchmark: BenchmarkLike,
    request: FeatureRequest,
    *,
    device: str = "auto",
    dtype: str = "auto",
    task: str | None = None,
    rule: str = "grouped",
    form: str = "letter",
    folder: Path | None = None,
    progress: ProgressLike = None,
) -> FeatureReport:
    """Predict every feature over a benchmark's search split; see `Cache.screen_features`."""
    root = session.cache.root
    questions = opened_benchmark(benchmark, folder=folder, task=task, rule=rule, form=form)
    source = gradient_source(
        find_model(model, root), root, device=device, dtype=dtype, run=request.gradients, force=request.force
    )
    target = canonical_target(request.target or default_targets(questions)[0])
    check_can_ask(questions, source.bundle, (target,))
    with reporting(progress) as show:
        decoders = SaeDecoders(_saes(request), run_model(source.bundle), allow_foreign=request.allow_foreign)
        wanted = SaeTask(
            name=name_of_task(questions),
            benchmark=questions.name,
            target=target,
            asked=search_questions(questions, source.bundle, n=request.n, progress=show),
            step=request.step,
            k=request.top,
            concept=request.concept,
        )
        screened = screen_sae(session, wanted, decoders, source, progress=show)
        if not request.exact:
            return FeatureReport(screened=screened)
        exact = run_exactly(
            session,
            source.load(),
            questions,
            screened,
            decoders,
            count=request.exact,
            run=request.live,
            n=request.n,
            seed=request.seed,
            allow_foreign=request.allow_foreign,
            progress=show,
        )
        return FeatureReport(screened=screened, exact=exact)


def _saes(request: FeatureRequest) -> "list[FoundSae | LoadedSae]":
    if isinstance(request.sae, LoadedSae):
        return [request.sae]
    return list(find_saes(request.sae, layers=request.layers or None))
