"""The one way in which a sweep is run, be it an evaluation, one task of a grid, or the search of its null directions.

On the search split every arm tries its settings, all of them or in a race, and takes the best by `sweeps.choosing`; what it
took is stored, and on the test split only that is asked, after an entry in the ledger. The sweep is locked meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steercache.answers.batches import Runner
from steercache.answers.costs import MachineCosts, ModeChoice
from steercache.answers.damage import damage_of, neutral_inputs
from steercache.answers.mode import ModeChooser
from steercache.answers.option_tokens import margins_wanted
from steercache.answers.store import Key, SweepWriter, stored_answers
from steercache.answers.ways import BRANCHED
from steercache.benchmarks.questions import save_questions
from steercache.benchmarks.task import PLAIN, EncodedQuestion, Part, Progress
from steercache.cells.arms import ArmCell
from steercache.cells.options import EvalOptions, ModeRequest
from steercache.core.damage import Damage
from steercache.core.trials import Answer, Choice, ChoiceRule
from steercache.manifests.sweep import Race
from steercache.models.memory import freed_memory_kept
from steercache.models.spec import LoadedModel
from steercache.sweeps.choices import best_setting, choice_of
from steercache.sweeps.kept_pictures import keep_pictures
from steercache.sweeps.ledger import looks_of, record_look
from steercache.sweeps.race import RaceSummary, race_cells
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.result import record_of, status_of

Questions = Mapping[Part, Sequence[EncodedQuestion]]
ChooserOf = Callable[[SweepWriter], ModeChooser | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a look at the test split is entered as in the ledger."""

    dataset: str
    rule: str
    task: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSweep:
    """What is to be run: the questions by split, the baseline, and the settings open to every arm, by its name.

    `reworded` are the questions as arms with a wording of their own are asked them. `race` races the settings of vectors and
    null directions, beginning with `first` where a screening left only the best predicted ones (`screened`); with
    `finish_races` what a race left unread of its winner is read after it. `settled` are arms that chose already, each with
    its one setting, and among how many cells. `damage`: measure what the cells taken do to unrelated prompts.
    """

    loaded: LoadedModel = field(repr=False)
    options: EvalOptions
    looked: Looked
    asked: Questions = field(repr=False)
    reworded: Questions = field(default_factory=dict, repr=False)
    baseline: ArmCell
    settings: Mapping[str, tuple[ArmCell, ...]] = field(repr=False)
    lineages: Mapping[str, str]
    race: Race | None = None
    first: Mapping[str, ArmCell] = field(default_factory=dict, repr=False)
    screened: bool = False
    finish_races: bool = False
    settled: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    damage: bool = True

    @property
    def every(self) -> list[ArmCell]:
        """The baseline and all settings."""
        return [self.baseline, *(setting for some in self.settings.values() for setting in some)]

    @property
    def raced(self) -> dict[str, tuple[ArmCell, ...]]:
        """The arms whose settings are raced, with these."""
        if self.race is None:
            return {}
        return {name: some for name, some in self.settings.items() if some[0].arm.vector and name not in self.settled}


@dataclass(slots=True, kw_only=True)
class SweepRun:
    """A sweep while it runs, and after: what its arms took, the answers by split, and how they were got."""

    plan: PlannedSweep
    runner: Runner
    chooser: ModeChooser | None
    chosen: dict[str, ArmCell]
    answers: dict[Part, dict[Key, Answer]] = field(default_factory=dict)
    races: dict[str, RaceSummary] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    modes: dict[str, ModeChoice] = field(default_factory=dict)
    damage: Mapping[str, Damage] = field(default_factory=dict)

    @property
    def sweep_id(self) -> str:
        """Id of the stored sweep."""
        return self.runner.writer.sweep_id

    def choices(self, details: Mapping[str, Mapping[str, Any]] | None = None) -> list[Choice]:
        """What the baseline and every arm took, to be stored; `details` more, by arm."""
        plan = self.plan
        found = [choice_of(plan.baseline, rule="single", n_cells=1)]
        for name, setting in self.chosen.items():
            more = dict((details or {}).get(name, {}))
            if name in self.races:
                dropped = [s.cell.cell_id for s in plan.settings[name] if s.cell.cell_id in self.dropped]
                more["race"] = {**asdict(self.races[name]), "dropped": dropped}
            found.append(
                choice_of(
                    setting,
                    rule=_rule(plan, raced=name in self.races or (name in plan.settled and plan.race is not None)),
                    n_cells=plan.settled.get(name, len(plan.settings[name])),
                    lineage=plan.lineages.get(setting.arm.vector_id or ""),
                    damage=self.damage.get(setting.cell.cell_id),
                    details=more,
                )
            )
        return found

    def store(
        self,
        root: Path,
        details: Mapping[str, Mapping[str, Any]] | None = None,
        nulls: Mapping[str, SweepRecord] | None = None,
    ) -> SweepRecord:
        """Store what the arms took, with all that is known of it; returns the sweep as it is stored."""
        choices = self.choices(details)
        self.runner.writer.choose(choices)
        return record_of(
            self.runner.writer,
            status=status_of(self.answers),
            asked=self.plan.asked,
            answers=self.answers,
            choices=choices,
            n_looks=looks_of(root, self.sweep_id) if "test" in self.answers else None,
            nulls=nulls,
        )


def _rule(plan: PlannedSweep, *, raced: bool) -> ChoiceRule:
    if plan.screened:
        return "screening and race" if raced else "screening"
    return "race" if raced else "exhaustive"


def mode_chooser(costs: MachineCosts | None, wanted: ModeRequest | None) -> ChooserOf:
    """What chooses how a sweep's answers are computed; nothing where no mode is wanted."""
    if costs is None or wanted is None:
        return lambda writer: None
    return lambda writer: ModeChooser(cache=writer.cache, costs=costs, folder=writer.folder, wanted=wanted)


def run_sweep(
    plan: PlannedSweep,
    writer: SweepWriter,
    *,
    choosing: ChooserOf,
    root: Path,
    progress: Progress | None = None,
) -> SweepRun:
    """Answer every split, and store answers, questions and choices. An interrupted call is resumed by the same call.

    `choosing` says how answers are computed (None: cells branch). `root` is the cache's folder, where the ledger lies.

    Raises:
        BudgetError: one cell over a batch does not fit into the memory budget; BusyError: another process runs this sweep;
        UsageError: a target that hits nothing in a prompt, or a mode that cannot be had.
    """
    asked = [one for some in plan.asked.values() for one in some]
    ids, wanted = [s.cell.cell_id for s in plan.every], margins_wanted(asked, plan.loaded.tokenizer)
    with writer.held(), freed_memory_kept():
        runner = Runner(
            loaded=plan.loaded,
            options=plan.options,
            writer=writer,
            known=stored_answers(writer.cache, ids, margins=wanted),
            progress=progress,
            planned=_n_planned(plan),
        )
        chosen = {name: some[0] for name, some in plan.settings.items()}
        run = SweepRun(plan=plan, runner=runner, chooser=choosing(writer), chosen=chosen)
        for split in plan.asked:
            if split == "search":
                _search(run)
                writer.choose(run.choices())
            else:
                _test(run, root)
        run.damage = _damage(run) if plan.damage else {}
        writer.choose(run.choices())
        writer.save(status=status_of(run.answers))
        _keep_pictures(run)
    return run


def _keep_pictures(run: SweepRun) -> None:
    """Keep pictures for the page about this sweep; a sweep of null directions has no page of its own."""
    plan = run.plan
    if plan.settled or not run.answers:
        return
    split = list(run.answers)[-1]
    arms = {name: s.cell.cell_id for name, s in run.chosen.items() if s.arm.role in ("vector", "prompting")}
    baseline = plan.baseline.cell.cell_id
    keep_pictures(run.runner.writer.folder, plan.asked[split], run.answers[split], baseline=baseline, arms=arms)


def _n_planned(plan: PlannedSweep) -> int:
    """Answers that are wanted in all: every setting on the search split, one of each arm on the test split."""
    n = {"search": len(plan.every), "test": 1 + len(plan.settings)}
    return sum(len(some) * n[split] for split, some in plan.asked.items())


def _search(run: SweepRun) -> None:
    """Answer the search split, and choose a setting for every arm."""
    plan, asked = run.plan, run.plan.asked["search"]
    raced = plan.raced
    _set_mode(run, "search", [s for s in plan.every if not raced or s.arm.name in raced or s is plan.baseline])
    _begin(run, plan.every)
    if plan.race is None or not raced:
        run.answers["search"] = _run(run, "search", plan.every)
        for name, some in plan.settings.items():
            run.chosen[name] = best_setting(some, asked, run.answers["search"])
        return
    answers = run.answers["search"] = {}
    for i, (name, some) in enumerate(raced.items()):
        beside = () if i else (plan.baseline,)
        found = race_cells(
            run.runner, asked, some, plan.race, seed=plan.seed, beside=beside, first=plan.first.get(name)
        )
        answers.update(found.answers)
        if not i:  # what the race left unread: the baseline's share is of the whole split
            rest = [one for one in asked if (plan.baseline.cell.cell_id, one.sample_id) not in answers]
            answers.update(run.runner.run(rest, [plan.baseline]))
        run.chosen[name] = found.best
        run.races[name], run.dropped = found.summary, run.dropped | found.dropped
    if plan.finish_races:
        answers.update(_run(run, "search", [run.chosen[name] for name in raced]))
    others = [s for name, some in plan.settings.items() if name not in raced for s in some]
    answers.update(_run(run, "search", others))
    for name, some in plan.settings.items():
        if name not in raced:
            run.chosen[name] = best_setting(some, asked, answers)


def _test(run: SweepRun, root: Path) -> None:
    """Answer the test split with the settings taken only; the look goes into the ledger first, once per sweep."""
    plan = run.plan
    settings = [plan.baseline, *run.chosen.values()]
    _set_mode(run, "test", settings)  # before the look: what cannot be done is not one
    _begin(run, settings)
    record_look(
        root,
        dataset=plan.looked.dataset,
        task=plan.looked.task,
        rule=plan.looked.rule,
        split="test",
        subject=run.sweep_id,
        n=len(plan.asked["test"]),
        once=True,
    )
    run.answers["test"] = _run(run, "test", settings)


def _begin(run: SweepRun, settings: Sequence[ArmCell]) -> None:
    """Say which cells answers are to come for, and write the questions: a sweep that is killed knows its pictures too."""
    run.runner.writer.ask_for({s.cell.cell_id: s.cell for s in settings})
    if not run.answers:
        save_questions(run.runner.writer.folder, run.plan.asked)


def _set_mode(run: SweepRun, split: Part, settings: Sequence[ArmCell]) -> None:
    """How the runner gets answers to settings under the plain wording; without a chooser it branches."""
    if run.chooser is not None:
        plain = [s for s in settings if s.arm.wording == PLAIN]
        run.modes[split] = run.chooser.choose(run.runner, run.plan.asked[split], plain, split)


def _run(run: SweepRun, split: Part, settings: Sequence[ArmCell]) -> dict[Key, Answer]:
    """Answers of settings over a split, each under its own wording."""
    plain = [s for s in settings if s.arm.wording == PLAIN]
    other = [s for s in settings if s.arm.wording != PLAIN]
    answers = run.runner.run(run.plan.asked[split], plain) if plain else {}
    if not other:
        return answers
    if run.runner.way.mode == "replay":
        run.runner.way = BRANCHED  # other words, of which no run has rows; a single pass for all of them
    return answers | run.runner.run(run.plan.reworded[split], other)


def _damage(run: SweepRun) -> dict[str, Damage]:
    """What the settings taken by vectors and controls do to unrelated prompts, by cell."""
    loaded, options = run.plan.loaded, run.plan.options
    steering = {s.cell.cell_id: s for s in run.chosen.values() if s.arm.steers}
    cells = [s.branch_cell(cell_id, loaded.spec.hidden_size) for cell_id, s in steering.items()]
    inputs = neutral_inputs(loaded, tokens_per_batch=options.compute.tokens_per_batch)
    return damage_of(loaded, cells, inputs, memory_mib=options.compute.memory_mib)
