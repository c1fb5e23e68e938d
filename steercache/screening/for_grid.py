"""How a grid takes the best predicted cells."""

from collections.abc import Callable

from steercache.benchmarks.task import Progress
from steercache.cells.sweep import SweepJob, TaskQuestions
from steercache.screening.gradient_source import GradientSource, ensure_gradients
from steercache.screening.job import refuse_kl
from steercache.screening.pilot import ScreenedCells, ScreenFirst, run_pilot
from steercache.screening.predict import By, best_predicted, wish_of


def screening_for_grid(
    *, progress: Progress | None = None
) -> Callable[[SweepJob, TaskQuestions, ScreenFirst], ScreenedCells]:
    """What `grid.run_grid` asks for the best predicted settings of every vector, best first; a pilot is run where wanted."""

    def screening(job: SweepJob, task: TaskQuestions, first: ScreenFirst) -> ScreenedCells:
        plain = [s for s in job.grid.cells if not s.arm.parts]
        together = {name: some for name, some in job.grid.settings.items() if some[0].arm.parts}  # of one cell each
        if not plain:
            return ScreenedCells(settings=together)
        refuse_kl(job.grid.options.axes.alpha_unit)
        wanted = GradientSource(
            bundle=job.loaded.bundle,
            load=lambda: job.loaded,
            device=str(job.loaded.model.device),
            crew=job.grid.options.compute.crew,
        )
        wish = wish_of(task.benchmark.name, plain)
        gradients = ensure_gradients(job.session, task.asked["search"], wish, wanted, progress=progress)
        pilot = run_pilot(job, task, gradients, n=first.pilot, progress=progress)
        bends = None if pilot is None else pilot.bends
        by: By = first.by or "margin"
        settings = {
            name: some if name in together else best_predicted(gradients, some, first.k, by=by, bends=bends)
            for name, some in job.grid.settings.items()
        }
        return ScreenedCells(settings=settings, pilot=pilot)

    return screening
