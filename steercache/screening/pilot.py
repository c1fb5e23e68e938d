"""A pilot: a few questions answered exactly at one or two strengths of every vector and layer, so that predictions bend.

Its cells are cells of the grid like any others: their answers are kept, and a grid that runs them asks only the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from steercache.answers.batches import Runner
from steercache.answers.option_tokens import margins_wanted
from steercache.answers.store import SweepWriter, stored_answers
from steercache.benchmarks.task import Progress
from steercache.cells.arms import ArmCell
from steercache.cells.sweep import SweepJob, TaskQuestions, stored_manifest
from steercache.core.trials import TRUST
from steercache.manifests.sweep import SweepManifest
from steercache.screening.gradient_store import StoredGradients
from steercache.screening.predict import (
    By,
    Place,
    by_place,
    margins_of_settings,
    steps_of_settings,
)
from steercache.steering.margin_curve import MarginCurve, fit_margin_curve, pilot_places
from steercache.steering.screen import answer_margins

PILOT: Final = 40  # questions, but at most a third of the split
FEWEST: Final = 8  # fewer say too little, unless they are asked for: lines stay straight
P = TypeVar("P")  # what names a place


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenFirst:
    """Run the `k` best predicted cells of every vector. `pilot` questions say how predictions bend (None: `pilot_size`, 0: not
    at all); `by` says best at what (None: at the answer margin, for a race at right answers, as it promises them)."""

    k: int
    pilot: int | None = None
    by: By | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """What a pilot found: a bend for every vector, target and layer, `n_samples` questions, `n_answers` exact answers, of which
    `n_computed` were computed now; the cache had the others."""

    bends: Mapping[Place, MarginCurve] = field(repr=False)
    n_samples: int
    n_answers: int
    n_computed: int = 0


def screen_first_of(sweep: SweepManifest) -> ScreenFirst | None:
    """What a sweep's manifest says of it; None where all cells are run."""
    screen = sweep.screen
    return None if screen is None else ScreenFirst(k=screen.first, pilot=screen.pilot, by=screen.by)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedCells:
    """The best predicted settings of every arm, best first, and the pilot that bent predictions (None: they are straight)."""

    settings: Mapping[str, Sequence[ArmCell]]
    pilot: Pilot | None = None

    @property
    def best(self) -> dict[str, ArmCell]:
        """The best predicted setting of every arm."""
        return {name: some[0] for name, some in self.settings.items()}

    def in_order(self, every: Mapping[str, Sequence[ArmCell]]) -> dict[str, tuple[ArmCell, ...]]:
        """Of all settings of every arm those that were picked, in the order of preference that `every` has."""
        ids = {s.cell.cell_id for some in self.settings.values() for s in some}
        return {name: tuple(s for s in some if s.cell.cell_id in ids) for name, some in every.items()}


def pilot_size(n_samples: int, wanted: int | None) -> int:
    """Questions of a pilot: as many as are wanted, by default `PILOT` or a third of them all; 0 for too few to say much."""
    size, least = (min(PILOT, n_samples // 3), FEWEST) if wanted is None else (min(wanted, n_samples), 2)
    return size if size >= least else 0


def pilot_cells(steps: npt.ArrayLike, places: Sequence[Sequence[int]], *, trust: float = TRUST) -> list[int]:
    """Which settings a pilot runs, of those at every place; `steps` (c,) of all."""
    s = np.asarray(steps, dtype=np.float64)
    return [some[k] for some in places for k in pilot_places(s[list(some)], trust=trust)]


def run_pilot(
    job: SweepJob,
    task: TaskQuestions,
    gradients: StoredGradients,
    *,
    n: int | None = None,
    trust: float = TRUST,
    progress: Progress | None = None,
) -> Pilot | None:
    """Answer the pilot of a task's search split, as far as the cache has not, and fit its bends; None where it would be too
    small. An interrupted call is resumed by the same call.

    Raises:
        BudgetError: one cell over a batch does not fit into the memory budget; BusyError: another process runs this pilot.
    """
    size = pilot_size(len(gradients.samples), n)
    if not size:
        return None
    settings = [s for s in job.grid.cells if not s.arm.parts]  # several vectors together are one cell: it is run
    if not settings:
        return None
    steps, places = steps_of_settings(gradients, settings), by_place(settings)
    cells = pilot_cells(steps, list(places.values()), trust=trust)
    if not cells:
        return None
    chosen = np.sort(np.random.default_rng(job.sweep.seed).permutation(len(gradients.samples))[:size])
    asked = [gradients.samples[i] for i in chosen]
    name, manifest = (
        f"{job.sweep.name}: {task.name}: pilot",
        stored_manifest(job, task, {"pilot": size, "trust": trust}),
    )
    cache = job.session.cache
    writer = SweepWriter(cache=cache, name=name, manifest=manifest)
    ids, wanted = [settings[i].cell.cell_id for i in cells], margins_wanted(asked, job.loaded.tokenizer)
    with writer.held():
        runner = Runner(
            loaded=job.loaded,
            options=job.grid.options,
            writer=writer,
            known=stored_answers(cache, ids, margins=wanted),
            progress=_as_pilot(progress, task.name),
        )
        answers = runner.run(asked, [settings[i] for i in cells])
        failed = any(a.status == "failed" for a in answers.values())
        writer.save(status="partly_failed" if failed else "complete")
    margins = [[answers[settings[i].cell.cell_id, one.sample_id].margin for one in asked] for i in cells]
    exact_pm = np.array([[np.nan if m is None else m for m in row] for row in margins], dtype=np.float64)
    base_n = answer_margins(gradients.screen(str(settings[0].cell.target))).astype(np.float64)
    lines_pm = margins_of_settings(gradients, [settings[i] for i in cells], trust=np.inf)[:, chosen] - base_n[chosen]
    bends = fit_bends(places, cells, steps[cells], lines_pm, exact_pm - base_n[chosen])
    return Pilot(bends=bends, n_samples=size, n_answers=len(answers), n_computed=runner.tally.n_computed)


def fit_bends(
    places: Mapping[P, Sequence[int]],
    cells: Sequence[int],
    steps_p: npt.ArrayLike,
    lines_pm: npt.ArrayLike,
    moved_pm: npt.ArrayLike,
) -> dict[P, MarginCurve]:
    """A bend for every place that has some of the pilot's `cells` (p,), whose rows the arrays have; questions without a margin
    there are left out."""
    steps, lines, moved = (np.asarray(x, dtype=np.float64) for x in (steps_p, lines_pm, moved_pm))
    row = {cell: at for at, cell in enumerate(cells)}
    found = {}
    for place, some in places.items():
        at = [row[cell] for cell in some if cell in row]
        known = ~np.isnan(moved[at]).any(axis=0)
        if at and known.sum() >= 2:
            found[place] = fit_margin_curve(steps[at], lines[at][:, known], moved[at][:, known])
    return found


def _as_pilot(progress: Progress | None, task: str) -> Progress | None:
    if progress is None:
        return None
    return lambda _, done, total: progress(f"{task}: pilot", done, total)
