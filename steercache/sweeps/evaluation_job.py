"""An evaluation before it runs: what is asked, who competes, and what is known already."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from steercache.answers.kl_strengths import kl_axes
from steercache.answers.row_norms import row_norms_of
from steercache.answers.store import SweepWriter
from steercache.benchmarks.task import (
    EncodedQuestion,
    Part,
    Progress,
    Wording,
    ask,
    attend_to,
    check_can_ask,
    pick_rows,
    reword,
)
from steercache.cache.vectors import save_vector
from steercache.cells.arms import Arm, settings_of
from steercache.cells.combinations import (
    NO_COMBINATIONS,
    Combinations,
    check_combination,
    combination_arms,
    notes_on_order,
    targets_of_parts,
    with_parts,
)
from steercache.cells.options import EvalOptions
from steercache.cells.places import with_place
from steercache.cells.sweep import PanelRequest, TaskQuestions, panel_of, task_names
from steercache.cells.targets import refuse_empty, with_clauses
from steercache.cells.vectors import check_vector, control_arms
from steercache.core.errors import PartlyFailedError, UsageError
from steercache.core.ids import digest
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks.questions import Benchmark
from steercache.models.ends import answer_identity
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalJob:
    """What an evaluation works on; `asked` under the plain wording, `reworded` under the prompting baseline's. `panel` are
    questions of unrelated tasks, for the cells that are chosen."""

    session: Session
    loaded: LoadedModel
    benchmark: Benchmark
    options: EvalOptions
    splits: tuple[Part, ...]
    asked: dict[Part, tuple[EncodedQuestion, ...]]
    reworded: dict[Part, tuple[EncodedQuestion, ...]]
    arms: tuple[Arm, ...]
    lineages: Mapping[str, str]
    writer: SweepWriter
    notes: tuple[str, ...]
    panel: tuple[TaskQuestions, ...] = ()

    @property
    def task(self) -> str | None:
        """The one task of the questions; None where there are several."""
        tasks = task_names(self.asked)
        return next(iter(tasks)) if len(tasks) == 1 else None

    @property
    def name(self) -> str:
        """The benchmark, with its task, as a task of a sweep is called."""
        return f"{self.benchmark.name} {self.task or ''}".strip()

    def panel_manifest(self, other: TaskQuestions) -> dict[str, Any]:
        """What is stored of a sweep of the chosen cells over a task of the panel."""
        same = ("model", "grid", "decoding", "seed")
        return {
            **{name: self.writer.manifest[name] for name in same},
            "task": other.wanted.model_dump(mode="json", exclude={"folder", "concepts", "vectors"})
            | {"benchmark": other.benchmark.name},
            "samples": {split: digest([one.sample_id for one in some]) for split, some in other.asked.items()},
            "lineages": dict(self.lineages),
        }


def prepare(
    session: Session,
    loaded: LoadedModel,
    benchmark: Benchmark,
    *,
    vectors: Sequence[SteeringVector],
    options: EvalOptions,
    combinations: Combinations = NO_COMBINATIONS,
    progress: Progress | None,
) -> EvalJob:
    """Check the options, encode the questions, make the controls, and look up what is answered already.

    The job's `options` have the norms of the steered rows, or the strengths at a given KL, where alpha counts in them.

    Raises:
        UsageError, PartlyFailedError: as `run.evaluate`.
    """
    together = combination_arms(session, combinations, taken=["baseline", "prompting", *(v.name for v in vectors)])
    targets = (*(options.axes.targets if vectors else ()), *targets_of_parts(together))
    check_can_ask(benchmark, loaded.bundle, targets)
    twice = {v.name for i, v in enumerate(vectors) if v.name in [w.name for w in vectors[:i]]}
    if twice:
        raise UsageError(f"two vectors are called {', '.join(sorted(twice))}", hint="name one of each")
    if options.panel and not vectors:
        raise UsageError(
            "side effects are those of vectors, and none is named", hint="name one, or leave the panel out"
        )
    options = with_place(options, vectors)
    lineages = {v.vector_id: check_vector(session.cache, v, loaded, options) for v in vectors}
    lineages |= {str(arm.vector_id): check_combination(session.cache, arm, loaded, options) for arm in together}
    options = with_parts(with_clauses(options, session), together)
    competing = (*(Arm(name=v.name, role="vector", vector=v) for v in vectors), *together)
    arms, notes = _arms(session, competing, options, pictures=benchmark.has_pictures)
    notes += notes_on_order(together)
    splits: tuple[Part, ...] = ("search", "test") if options.split == "both" else (options.split,)
    asked: dict[Part, tuple[EncodedQuestion, ...]] = {}
    reworded: dict[Part, tuple[EncodedQuestion, ...]] = {}
    wording = next((arm.wording for arm in arms if arm.role == "prompting"), None)
    for split in splits:
        rows = pick_rows(benchmark, split, n=options.n, orphans=splits[-1])
        asked[split] = ask(rows, loaded.bundle, split=split, progress=progress)
        if wording is not None:
            reworded[split] = reword(asked[split], rows, wording, loaded.bundle)
    _check_some(asked)
    if competing:
        samples = [one.encoded for some in asked.values() for one in some if one.encoded is not None]
        refuse_empty(options.axes.clauses, samples, tokenizer=loaded.bundle.tokenizer, name=benchmark.name)
    if "target_norm" in options.axes.units and competing:
        searched = asked.get("search")
        if searched is None:  # a setting is the same thing on both splits
            rows = pick_rows(benchmark, "search", n=options.n, orphans="test")
            searched = ask(rows, loaded.bundle, split="search", progress=progress)
        axes = options.axes
        norms = row_norms_of(
            session.cache, loaded.bundle, searched, load=lambda: loaded, clauses=axes.clauses, place=axes.site
        )
        options = replace(options, axes=replace(options.axes, row_norms=norms))
    memory_mib = options.compute.memory_mib
    axes = kl_axes(session.cache, loaded.bundle, arms, options.axes, load=lambda: loaded, memory_mib=memory_mib)
    options = replace(options, axes=axes)
    wanted = PanelRequest(
        n=options.panel, tasks=options.panel_tasks, asked=task_names(asked), targets=options.axes.targets
    )
    panel = panel_of(wanted, loaded, progress)
    for arm in arms:
        for vector in arm.vectors if arm.role == "control" else ():
            save_vector(session.cache, vector)
    cell_ids = [s.cell.cell_id for arm in arms for s in settings_of(arm, loaded, options)]
    manifest = _manifest(loaded, benchmark, arms, options=options, asked=asked, lineages=lineages)
    manifest["cells"] = digest(sorted(cell_ids))
    name = f"eval-{loaded.spec.name}-{benchmark.name}"
    writer = SweepWriter(cache=session.cache, name=name, manifest=manifest)
    return EvalJob(
        session=session,
        loaded=loaded,
        benchmark=benchmark,
        options=options,
        splits=splits,
        asked=asked,
        reworded=reworded,
        arms=arms,
        lineages=lineages,
        writer=writer,
        notes=tuple(notes),
        panel=panel,
    )


def _arms(
    session: Session, competing: Sequence[Arm], options: EvalOptions, *, pictures: bool
) -> tuple[tuple[Arm, ...], list[str]]:
    """Baseline, prompting, vectors and combinations, and their controls."""
    arms = [Arm(name="baseline", role="baseline")]
    notes: list[str] = []
    if options.prompting != "":
        concept = competing[0].vectors[0].concept if competing else None
        wording = (
            attend_to(concept, pictures=pictures) if options.prompting is None else Wording(attend=options.prompting)
        )
        arms.append(Arm(name="prompting", role="prompting", wording=wording))
    for arm in competing:
        arms.append(arm)
        controls, said = control_arms(session, arm, options)
        arms += controls
        notes += said
    return tuple(arms), notes


def _check_some(asked: Mapping[Part, Sequence[EncodedQuestion]]) -> None:
    for split, some in asked.items():
        if all(one.encoded is None for one in some):
            first = some[0]
            raise PartlyFailedError(
                f"none of the {len(some)} questions of the {split} split can be asked; the first: {first.error}",
                place=first.place,
            )


def _manifest(
    loaded: LoadedModel,
    benchmark: Benchmark,
    arms: Sequence[Arm],
    *,
    options: EvalOptions,
    asked: Mapping[Part, Sequence[EncodedQuestion]],
    lineages: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest stored with the sweep: everything that identifies it, nothing about execution."""
    together = {arm.name: [asdict(one.cell_part()) for one in arm.parts] for arm in arms if arm.parts}
    return {
        "kind": "eval",
        "model": answer_identity(loaded),
        "benchmark": {"name": benchmark.name, "rule": benchmark.rule},
        "samples": {split: digest([one.sample_id for one in some]) for split, some in asked.items()},
        "grid": options.axes.manifest,
        "decoding": options.decoding.identity,
        "arms": [
            {
                "name": arm.name,
                "role": arm.role,
                "vector": arm.vector_id,
                "lineage": lineages.get(arm.vector_id or ""),
                "attend": arm.wording.attend,
                "control_of": arm.of,
            }
            for arm in arms
        ],
        "seed": options.seed,
        **({"combinations": together} if together else {}),
    }
