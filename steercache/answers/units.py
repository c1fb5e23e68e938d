"""The cells of a sweep's task in the unit that their strengths count in, once what it takes is measured."""

from collections.abc import Callable
from dataclasses import replace

from steercache.answers.kl_strengths import kl_axes
from steercache.answers.row_norms import with_target_norms
from steercache.cells.sweep import SweepJob, TaskQuestions
from steercache.models.spec import LoadedModel


def in_units(job: SweepJob, task: TaskQuestions, *, load: Callable[[], LoadedModel] | None = None) -> SweepJob:
    """The job with the cells of one task; unchanged where alpha is raw or counts in norms of a vector's own rows.

    Without `load` nothing is measured: cells whose norms or strengths are not known are of no task.

    Raises:
        as `row_norms.row_norms_of` and `kl_strengths.kl_strengths_of`.
    """
    job = with_target_norms(job, task, load=load)
    axes = job.grid.options.axes
    if "kl" not in axes.units:
        return job
    memory_mib = job.grid.options.compute.memory_mib
    found = kl_axes(job.session.cache, job.loaded.bundle, job.grid.arms, axes, load=load, memory_mib=memory_mib)
    return replace(job, grid=job.grid.with_axes(job.loaded, found))
