"""`steercache eval`: a benchmark's table for vectors, a prompting baseline and controls, every answer kept.

On the search split every arm tries all its settings and takes its best; on the test split it runs that one only. Controls
are given the same selection as the vectors they belong to. Looks at the test split go to the ledger before it is answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from steercache.answers.costs import ModeChoice, costs_here
from steercache.answers.damage import Damage, damage_of, neutral_inputs
from steercache.answers.mode import ModeChooser
from steercache.answers.store import Key
from steercache.answers.ways import BRANCHED
from steercache.benchmarks.comparison import unread_share
from steercache.benchmarks.questions import save_questions
from steercache.benchmarks.task import PLAIN, Part, Progress
from steercache.benchmarks.whatsup import WhatsUpScore
from steercache.cells.arms import ArmCell, EvalOptions, settings_of
from steercache.core.trials import Answer
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks.questions import Benchmark
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.sweeps.evaluation.job import EvalJob, prepare
from steercache.sweeps.evaluation.ledger import count_looks, record_look
from steercache.sweeps.evaluation.nulls import rank_among_controls
from steercache.sweeps.evaluation.table import (
    EvalRow,
    best_setting,
    bias_of,
    compared,
    tested_bias,
    whatsup_of,
    with_holm,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A sample that could not be asked."""

    split: Part
    place: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The table, and what has to be known beside it.

    `baseline` is the share of right answers by split, `baseline_unread` of those read as no option, `baseline_whatsup` its
    pair and set accuracy (What'sUp only). `n_looks` is how often this test split was looked at, this time included (None: not
    looked at). `near_ties` are (cell, sample) whose answer another batching may change, of those computed now;
    `computed_in_full` are cells that could not branch from the shared pass, with the reason. `modes` says by split how
    answers were got, and why (empty: nothing was chosen).
    """

    sweep_id: str
    model: str
    benchmark: str
    rule: str
    rows: tuple[EvalRow, ...]
    baseline: Mapping[str, float]
    baseline_unread: Mapping[str, float]
    baseline_whatsup: Mapping[str, WhatsUpScore]
    n_samples: Mapping[str, int]
    failures: tuple[Failure, ...]
    n_looks: int | None
    n_computed: int
    n_reused: int
    near_ties: tuple[Key, ...] = field(repr=False)
    computed_in_full: Mapping[str, str]
    notes: tuple[str, ...]
    modes: Mapping[str, ModeChoice]


def evaluate(
    session: Session,
    loaded: LoadedModel,
    benchmark: Benchmark,
    *,
    vectors: Sequence[SteeringVector],
    options: EvalOptions,
    progress: Progress | None = None,
) -> Evaluation:
    """Run baseline, prompting, vectors and controls over a benchmark, and compare.

    Answers that the cache has already, in whatever sweep, are not computed again; a killed run goes on where it was written.

    Raises:
        UsageError: a text model, a vector that does not fit, a split without rows, a mode that cannot be had;
        PartlyFailedError: nothing could be asked; BusyError: another process runs this evaluation.
    """
    job = prepare(session, loaded, benchmark, vectors=vectors, options=options, progress=progress)
    with job.runner.writer.held():
        return _evaluate(job)


def _evaluate(job: EvalJob) -> Evaluation:
    settings = {arm.name: settings_of(arm, job.loaded, job.options) for arm in job.arms}
    chosen = {name: some[0] for name, some in settings.items()}
    rows: list[EvalRow] = []
    tables: dict[Part, dict[Key, Answer]] = {}
    damage: dict[str, Damage] | None = None
    modes: dict[str, ModeChoice] = {}
    chooser = _chooser(job)
    for split in job.splits:
        open_to = settings if split == "search" else {name: (one,) for name, one in chosen.items()}
        answers = _answer_split(job, split, open_to, chooser=chooser, modes=modes)
        tables[split] = answers
        if split == "search":
            chosen = {name: best_setting(some, job.asked[split], answers) for name, some in settings.items()}
        damage = _damage(job, chosen) if damage is None else damage  # what was chosen stays chosen
        rows += _rows(job, split, chosen, settings=settings, tables=tables, damage=damage)
    failed = any(answer.status == "failed" for answers in tables.values() for answer in answers.values())
    job.runner.writer.save(status="partly_failed" if failed else "complete")
    save_questions(job.runner.writer.folder, job.asked)
    return replace(_evaluation(job, rows, tables, chosen), modes=modes)


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


def _rows(
    job: EvalJob,
    split: Part,
    chosen: Mapping[str, ArmCell],
    *,
    settings: Mapping[str, Sequence[ArmCell]],
    tables: Mapping[Part, Mapping[Key, Answer]],
    damage: Mapping[str, Damage],
) -> tuple[EvalRow, ...]:
    """The table of one split: prompting and vectors; controls stand in the row of their vector."""
    asked, answers = job.asked[split], tables[split]
    baseline_id = chosen["baseline"].cell.cell_id
    seed = job.options.seed
    rows = []
    for arm in job.arms:
        if arm.role in ("baseline", "control"):
            continue
        cell = chosen[arm.name].cell
        comparison = compared(cell.cell_id, baseline_id, asked, answers, seed=seed)
        own = [chosen[a.name] for a in job.arms if arm.vector is not None and a.of == arm.vector.vector_id]
        placed = rank_among_controls(chosen[arm.name], own, baseline_id, asked, answers)
        bias = None
        if "search" in tables:
            bias = bias_of(settings[arm.name], baseline_id, job.asked["search"], tables["search"], seed=seed)
        if split == "test":
            bias = tested_bias(bias, cell.cell_id, baseline_id, asked, answers)
        rows.append(
            EvalRow(
                name=arm.name,
                role=arm.role,
                split=split,
                method=None if arm.vector is None else arm.vector.method,
                concept=None if arm.vector is None else arm.vector.concept,
                lineage=None if arm.vector is None else job.lineages[arm.vector.vector_id],
                cell=cell,
                comparison=comparison,
                p_holm=1.0,
                controls=tuple(replace(null, damage=damage.get(null.cell.cell_id)) for null in placed.nulls),
                rank_p=placed.p,
                bias=bias,
                whatsup=whatsup_of(cell.cell_id, asked, answers),
                damage=damage.get(cell.cell_id),
            )
        )
    return with_holm(rows)


def _evaluation(
    job: EvalJob, rows: Sequence[EvalRow], tables: Mapping[Part, Mapping[Key, Answer]], chosen: Mapping[str, ArmCell]
) -> Evaluation:
    baseline_id = chosen["baseline"].cell.cell_id
    failures: list[Failure] = []
    shares: dict[str, float] = {}
    unread: dict[str, float] = {}
    whatsup: dict[str, WhatsUpScore] = {}
    for split, answers in tables.items():
        of_baseline = [answers[baseline_id, one.sample_id] for one in job.asked[split]]
        right = [bool(a.correct) for a in of_baseline if a.status == "ok"]
        shares[split] = sum(right) / len(right)
        unread[split] = unread_share(of_baseline)
        if (score := whatsup_of(baseline_id, job.asked[split], answers)) is not None:
            whatsup[split] = score
        failures += [
            Failure(split=split, place=one.place, error=answer.error or "")
            for one, answer in zip(job.asked[split], of_baseline, strict=True)
            if answer.status == "failed"
        ]
    n_looks = None
    if "test" in tables:
        n_looks = count_looks(
            job.root,
            dataset=job.benchmark.name,
            rule=job.benchmark.rule,
            split="test",
            task=job.task,
        )
    return Evaluation(
        sweep_id=job.sweep_id,
        model=job.loaded.spec.name,
        benchmark=job.benchmark.name,
        rule=job.benchmark.rule,
        rows=tuple(rows),
        baseline=shares,
        baseline_unread=unread,
        baseline_whatsup=whatsup,
        n_samples={str(split): len(some) for split, some in job.asked.items()},
        failures=tuple(failures),
        n_looks=n_looks,
        n_computed=job.runner.n_computed,
        n_reused=job.runner.n_reused,
        near_ties=tuple(job.runner.near_ties),
        computed_in_full=dict(job.runner.full),
        notes=job.notes,
        modes={},
    )
