"""`steercache eval`: a benchmark's table for vectors, a prompting baseline and controls, every answer kept.

On the search split every arm tries all its settings and takes its best; on the test split it runs that one only. Controls
are given the same selection as the vectors they belong to. Looks at the test split go to the ledger before it is answered.
"""

from collections.abc import Mapping, Sequence

from steercache.answers.costs import ModeChoice, costs_here
from steercache.answers.damage import damage_of, neutral_inputs
from steercache.answers.mode import ModeChooser
from steercache.answers.store import Key
from steercache.answers.ways import BRANCHED
from steercache.benchmarks.questions import save_questions
from steercache.benchmarks.task import PLAIN, Part, Progress
from steercache.cells.arms import ArmCell, EvalOptions, settings_of
from steercache.core.damage import Damage
from steercache.core.trials import Answer, Choice
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks.questions import Benchmark
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.sweeps.choices import best_setting, choice_of
from steercache.sweeps.evaluation.job import EvalJob, prepare
from steercache.sweeps.evaluation.ledger import looks_of, record_look
from steercache.sweeps.result import SweepResult, record_of, result_of, status_of
from steercache.sweeps.table import sweep_table


def evaluate(
    session: Session,
    loaded: LoadedModel,
    benchmark: Benchmark,
    *,
    vectors: Sequence[SteeringVector],
    options: EvalOptions,
    progress: Progress | None = None,
) -> SweepResult:
    """Run baseline, prompting, vectors and controls over a benchmark, and compare.

    Answers that the cache has already, in whatever sweep, are not computed again; a killed run goes on where it was written.

    Raises:
        UsageError: a text model, a vector that does not fit, a split without rows, a mode that cannot be had;
        PartlyFailedError: nothing could be asked; BusyError: another process runs this evaluation.
    """
    job = prepare(session, loaded, benchmark, vectors=vectors, options=options, progress=progress)
    with job.runner.writer.held():
        return _evaluate(job)


def _evaluate(job: EvalJob) -> SweepResult:
    settings = {arm.name: settings_of(arm, job.loaded, job.options) for arm in job.arms}
    chosen = {name: some[0] for name, some in settings.items()}
    answers: dict[Part, dict[Key, Answer]] = {}
    damage: dict[str, Damage] | None = None
    modes: dict[str, ModeChoice] = {}
    chooser, writer = _chooser(job), job.runner.writer
    for split in job.splits:
        open_to = settings if split == "search" else {name: (one,) for name, one in chosen.items()}
        answers[split] = _answer_split(job, split, open_to, chooser=chooser, modes=modes)
        if split == "search":
            chosen = {name: best_setting(some, job.asked[split], answers[split]) for name, some in settings.items()}
            writer.choose(_choices(job, settings, chosen, {}))
        damage = _damage(job, chosen) if damage is None else damage  # what was chosen stays chosen
    choices = _choices(job, settings, chosen, damage or {})
    writer.choose(choices)
    save_questions(writer.folder, job.asked)
    status = status_of(answers)
    writer.save(status=status)
    looks = looks_of(job.root, job.sweep_id) if "test" in answers else None
    record = record_of(writer, status=status, asked=job.asked, answers=answers, choices=choices, n_looks=looks)
    return result_of(sweep_table(record), job.runner, modes=modes, notes=job.notes)


def _choices(
    job: EvalJob,
    settings: Mapping[str, Sequence[ArmCell]],
    chosen: Mapping[str, ArmCell],
    damage: Mapping[str, Damage],
) -> list[Choice]:
    """What every arm took, the baseline among them, to be stored."""
    return [
        choice_of(
            chosen[arm.name],
            rule="exhaustive",
            n_cells=len(settings[arm.name]),
            lineage=None if arm.vector is None else job.lineages.get(arm.vector.vector_id),
            damage=damage.get(chosen[arm.name].cell.cell_id),
        )
        for arm in job.arms
    ]


def _chooser(job: EvalJob) -> ModeChooser | None:
    """What chooses how answers are computed; None where nobody asked for a choice."""
    if job.options.mode is None:
        return None
    cache = job.session.cache
    costs = costs_here(cache, job.loaded, again=job.options.recalibrate)
    return ModeChooser(cache=cache, costs=costs, folder=cache.paths.sweep(job.sweep_id), wanted=job.options.mode)


def _answer_split(
    job: EvalJob,
    split: Part,
    open_to: Mapping[str, Sequence[ArmCell]],
    *,
    chooser: ModeChooser | None,
    modes: dict[str, ModeChoice],
) -> dict[Key, Answer]:
    """Every answer of one split; the test split goes into the ledger first, once per sweep."""
    plain = [s for arm in job.arms if arm.wording == PLAIN for s in open_to[arm.name]]
    if chooser is not None:  # before the look: what cannot be done is not one
        modes[split] = chooser.choose(job.runner, job.asked[split], plain, split)
    if split == "test":
        record_look(
            job.root,
            dataset=job.benchmark.name,
            task=job.task,
            rule=job.benchmark.rule,
            split=split,
            subject=job.sweep_id,
            n=len(job.asked[split]),
            once=True,
        )
    answers = job.runner.run(job.asked[split], plain)
    other = [s for arm in job.arms if arm.wording != PLAIN for s in open_to[arm.name]]
    if job.runner.way.mode == "replay":
        job.runner.way = BRANCHED  # other words, of which no run has rows; a single pass for all of them
    return answers | job.runner.run(job.reworded[split], other) if other else answers


def _damage(job: EvalJob, chosen: Mapping[str, ArmCell]) -> dict[str, Damage]:
    """What the chosen settings of vectors and controls do to unrelated prompts, by cell."""
    if not job.options.damage:
        return {}
    steering = {s.cell.cell_id: s for s in chosen.values() if s.arm.vector is not None}
    cells = [s.branch_cell(cell_id, job.loaded.spec.hidden_size) for cell_id, s in steering.items()]
    inputs = neutral_inputs(job.loaded, tokens_per_batch=job.options.tokens_per_batch)
    return damage_of(job.loaded, cells, inputs, memory_mib=job.options.memory_mib)
