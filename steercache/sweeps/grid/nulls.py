"""A grid's search done again for null directions: each is given the vector's cells, race and screening, on the same questions.

Their answers are a sweep of their own, so that the grid's stays what it was asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from steercache.answers.batches import Runner
from steercache.answers.mode import ModeChooser
from steercache.answers.option_tokens import margins_wanted
from steercache.answers.store import SweepWriter, stored_answers
from steercache.benchmarks.task import EncodedQuestion, Part, Progress
from steercache.cells.arms import ArmCell
from steercache.cells.sweep import SweepJob, TaskQuestions, stored_manifest
from steercache.core.ids import digest
from steercache.core.trials import Choice, ChoiceRule, ControlKind
from steercache.manifests.sweep import Race
from steercache.screening.pilot import ScreenedCells
from steercache.sweeps.choices import best_setting, choice_of
from steercache.sweeps.choosing import Answers
from steercache.sweeps.evaluation.nulls import null_settings
from steercache.sweeps.grid.race import race_cells
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.result import record_of, status_of

SPLIT: Final[Part] = "search"
Screening = Callable[[SweepJob, TaskQuestions], ScreenedCells]


@dataclass(frozen=True, slots=True, kw_only=True)
class NullSearch:
    """How many nulls a vector's search is done for, of which kinds, and what the search is: `race` its cells, or only the best
    predicted ones of a `screening`. `how` is that for the sweep's identity; `choose` says how answers are computed."""

    count: int
    kinds: tuple[ControlKind, ...]
    how: Mapping[str, object]
    race: Race | None = None
    screening: Screening | None = field(default=None, repr=False)
    chooser: ModeChooser | None = field(default=None, repr=False)
    progress: Progress | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NullsFound:
    """The nulls' sweep (None: none could be made), a line for every kind that could not be made, and how many answers were
    computed for it, a pilot's included."""

    record: SweepRecord | None
    notes: tuple[str, ...]
    n_computed: int = 0


def search_nulls(job: SweepJob, task: TaskQuestions, winner: ArmCell, search: NullSearch) -> NullsFound:
    """Search every null as the winner was searched, on the search split. What a race left unread of the winners is read."""
    vector, grid = winner.arm.vector, job.grid
    assert vector is not None
    options = replace(grid.options, controls=search.count, control_kinds=search.kinds)
    made, notes = null_settings(job.session, job.loaded, vector, options)
    if not made:
        return NullsFound(record=None, notes=notes)
    every = {some[0].arm.name: some for some in made}
    screened = _screened(job, task, every, search.screening)
    picked = {name: tuple(some) for name, some in screened.settings.items()}
    writer = _writer(job, task, winner, picked, search)
    with writer.held():
        runner = _runner(job, task, winner, picked, search, writer=writer)
        winners, read = _search(runner, task.asked["search"], winner, picked, job=job, search=search)
        choices, answers = _choices(job, winner, winners, picked, search), {SPLIT: read}
        writer.choose(choices)
        status = status_of(answers)
        writer.save(status=status)
    n_piloted = 0 if screened.pilot is None else screened.pilot.n_computed
    record = record_of(writer, status=status, asked={SPLIT: task.asked[SPLIT]}, answers=answers, choices=choices)
    return NullsFound(record=record, notes=notes, n_computed=runner.n_computed + n_piloted)


def _choices(
    job: SweepJob,
    winner: ArmCell,
    winners: Sequence[ArmCell],
    picked: Mapping[str, Sequence[ArmCell]],
    search: NullSearch,
) -> list[Choice]:
    """What the baseline, the vector and its nulls took, to be stored with the nulls' sweep."""
    rule: ChoiceRule = "exhaustive" if search.race is None else "race"
    if search.screening is not None:
        rule = "screening" if search.race is None else "screening and race"
    real = job.grid.settings[winner.arm.name]
    taken = [choice_of(winner, rule=rule, n_cells=len(real))]
    taken += [choice_of(s, rule=rule, n_cells=len(picked[s.arm.name])) for s in winners]
    return [choice_of(job.grid.baseline, rule="single", n_cells=1), *taken]


def _screened(
    job: SweepJob, task: TaskQuestions, every: Mapping[str, tuple[ArmCell, ...]], screening: Screening | None
) -> ScreenedCells:
    """The cells of every null that are run, the best predicted one first; all of them without a screening."""
    if screening is None:
        return ScreenedCells(settings=every)
    arms = tuple(some[0].arm for some in every.values())
    return screening(replace(job, grid=replace(job.grid, arms=arms, settings=every)), task)


def _writer(
    job: SweepJob,
    task: TaskQuestions,
    winner: ArmCell,
    picked: Mapping[str, Sequence[ArmCell]],
    search: NullSearch,
) -> SweepWriter:
    """The nulls' sweep of their own."""
    nulls = {name: some[0].arm.vector.vector_id for name, some in picked.items() if some[0].arm.vector is not None}
    manifest = {
        **stored_manifest(job, task, search.how),
        "kind": "nulls",
        "nulls_of": winner.cell.vector_id,
        "vectors": nulls,
        "cells": digest(sorted(s.cell.cell_id for some in picked.values() for s in some)),
    }
    name = f"{job.sweep.name}: {task.name}: nulls of {winner.arm.name}"
    return SweepWriter(cache=job.session.cache, name=name, manifest=manifest)


def _runner(
    job: SweepJob,
    task: TaskQuestions,
    winner: ArmCell,
    picked: Mapping[str, Sequence[ArmCell]],
    search: NullSearch,
    *,
    writer: SweepWriter,
) -> Runner:
    """What answers the nulls' cells, in the way that is quickest for them."""
    cells = [job.grid.baseline, winner, *(s for some in picked.values() for s in some)]
    asked, progress = task.asked["search"], search.progress
    ids, wanted = [s.cell.cell_id for s in cells], margins_wanted(asked, job.loaded.tokenizer)
    runner = Runner(
        loaded=job.loaded,
        options=job.grid.options,
        writer=writer,
        known=stored_answers(job.session.cache, ids, margins=wanted),
        progress=None if progress is None else lambda _, done, total: progress(f"{task.name}: nulls", done, total),
        planned=len(asked) * len(cells),
    )
    if search.chooser is not None:
        replace(search.chooser, folder=writer.folder).choose(runner, asked, cells, "search")
    return runner


def _search(
    runner: Runner,
    asked: Sequence[EncodedQuestion],
    winner: ArmCell,
    picked: Mapping[str, Sequence[ArmCell]],
    *,
    job: SweepJob,
    search: NullSearch,
) -> tuple[list[ArmCell], Answers]:
    """What every null takes by the vector's own rule; answers of the whole split to those, the vector's and the baseline."""
    baseline = job.grid.baseline
    if search.race is None:
        answers = runner.run(asked, [baseline, winner, *(s for some in picked.values() for s in some)])
        return [best_setting(_in_order(some, job), asked, answers) for some in picked.values()], answers
    seed, first = job.sweep.seed, search.screening is not None
    winners = [
        race_cells(runner, asked, _in_order(some, job), search.race, seed=seed, first=some[0] if first else None).best
        for some in picked.values()
    ]
    return winners, runner.run(asked, [baseline, winner, *winners])


def _in_order(settings: Sequence[ArmCell], job: SweepJob) -> list[ArmCell]:
    """Settings in the grid's order of preference among equals: target, then layer, then strength as the manifest has them."""
    options = job.grid.options

    def place(setting: ArmCell) -> tuple[int, int, int]:
        cell = setting.cell
        assert cell.layer is not None
        return options.targets.index(cell.target), options.layers.index(cell.layer), options.alphas.index(cell.alpha)

    return sorted(settings, key=place)
