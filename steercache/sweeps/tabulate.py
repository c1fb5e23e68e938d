"""The one table of a sweep, an evaluation or a grid: `sweep_table` makes it from what is stored (`SweepRecord`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steercache.benchmarks.comparison import (
    Comparison,
    RankedGain,
    adjusted,
    compare,
    rank_among,
    ranked_gain,
    right_share,
    unread_share,
)
from steercache.benchmarks.questions import StoredQuestion
from steercache.benchmarks.whatsup import WhatsUpScore, whatsup_score
from steercache.core.damage import Damage
from steercache.core.errors import UsageError
from steercache.core.predictors import Predictors
from steercache.core.trials import Answer, Choice
from steercache.stats.choice import SelectionBias, selection_bias, with_test
from steercache.sweeps.cell_rows import CellRow, cell_rows
from steercache.sweeps.choosing import RIGHT, Answers, finished, states_of
from steercache.sweeps.record import HINT, PARTS, SweepRecord, cells_of
from steercache.sweeps.table import ControlResult, Failure, SideEffect, SplitTable, SweepTable, TableRow
from steercache.sweeps.together import interference_rows

Questions = Sequence[StoredQuestion]


def sweep_table(record: SweepRecord) -> SweepTable:
    """The table of a stored sweep; p values are adjusted within it (`adjust_together`).

    Raises:
        UsageError: it has no baseline, no answers of a search or test split, or none that both an arm and the baseline gave.
    """
    splits = tuple(_split_table(record, split) for split in PARTS if record.answers.get(split))
    if not splits:
        raise UsageError(f"the sweep {record.name!r} has no answers of a search or test split", hint=HINT)
    asked_for = record.manifest.get("benchmark") or record.manifest.get("task") or {}
    named = [str(asked_for.get("name") or asked_for.get("benchmark") or ""), str(asked_for.get("task") or "")]
    table = SweepTable(
        sweep_id=record.sweep_id,
        name=record.name,
        kind=str(record.manifest.get("kind", "")),
        status=record.status,
        created_at=record.created_at,
        manifest=record.manifest,
        model=str(record.manifest.get("model", {}).get("name", "")),
        benchmark=" ".join(part for part in named if part),
        rule=str(asked_for.get("rule", "")),
        splits=splits,
        cells=_cells(record),
        failures=_failures(record),
        n_answers=sum(map(len, record.answers.values())),
        n_looks=record.n_looks,
        clustered=record.clustered,
        inferred=record.inferred,
        interference=interference_rows(record),
    )
    return adjust_together([table])[0]


def adjust_together(
    tables: Sequence[SweepTable], beside: Mapping[str, Sequence[Comparison]] | None = None
) -> tuple[SweepTable, ...]:
    """The same tables with p values adjusted for the number of all their rows of a split, and of those `beside` them."""
    p: dict[tuple[int, str, str], float] = {}
    for split in PARTS:
        rows = [(i, row) for i, table in enumerate(tables) for row in table.rows if row.split == split]
        family = [*(row.comparison for _, row in rows), *((beside or {}).get(split, ()))]
        values = adjusted(family) if family else ()
        p |= {(i, split, row.name): value for (i, row), value in zip(rows, values, strict=False)}
    return tuple(
        replace(
            table,
            splits=tuple(
                replace(split, rows=tuple(replace(row, p_holm=p[i, split.split, row.name]) for row in split.rows))
                for split in table.splits
            ),
        )
        for i, table in enumerate(tables)
    )


def comparisons_of(record: SweepRecord, split: str) -> list[Comparison]:
    """The comparisons of a split alone: what p values of another task are adjusted beside."""
    return [compare_cells(record, split, record.baseline_id, one.cell_id) for one in _shown(record, split)]


def compare_cells(record: SweepRecord, split: str, before: str, after: str) -> Comparison:
    """One cell against another over the questions of a split that both answered. Raises UsageError: none was answered."""
    answers = record.answers[split]
    asked = [one for one in record.asked(split) if all((cell, one.sample_id) in answers for cell in (before, after))]
    right = {one.sample_id: one.right for one in asked if one.right is not None}
    return compare(
        [answers[before, one.sample_id] for one in asked],
        [answers[after, one.sample_id] for one in asked],
        {one.sample_id: one.group_id for one in asked},
        right=right if record.questions else None,
        seed=record.seed,
    )


def rank_controls(choice: Choice, record: SweepRecord, split: str) -> tuple[tuple[ControlResult, ...], float | None]:
    """What a vector's controls gained at the cells that they took, and the vector's rank among them (None: no controls).

    Raises:
        UsageError: the baseline answered no question.
    """
    controls = [
        one
        for one in record.choices
        if one.role == "control" and one.control_of == choice.vector_id and _was_asked(record, split, one.cell_id)
    ]
    if not controls or not _was_asked(record, split, choice.cell_id):
        return (), None
    results = []
    for one in controls:
        gain = _ranked(record, split, one.cell_id)
        results.append(
            ControlResult(
                name=one.arm,
                kind=one.control_kind or "",
                cell=record.cells[one.cell_id],
                gain=gain.gain,
                n=gain.n,
                n_failed=gain.n_failed,
                damage=_damage(one),
            )
        )
    return tuple(results), rank_among(_ranked(record, split, choice.cell_id), [one.ranked for one in results])


def _shown(record: SweepRecord, split: str) -> list[Choice]:
    """The arms that have a row: prompting and vectors that were asked something of the split."""
    return [
        one for one in record.choices if one.role in ("prompting", "vector") and _was_asked(record, split, one.cell_id)
    ]


def _was_asked(record: SweepRecord, split: str, cell_id: str) -> bool:
    answers = record.answers[split]
    return any((cell_id, one.sample_id) in answers for one in record.asked(split))


def _split_table(record: SweepRecord, split: str) -> SplitTable:
    answers, asked = record.answers[split], record.asked(split)
    if not asked:
        raise UsageError(f"the baseline has no answers of the {split} split", hint=HINT)
    of_baseline = [answers[record.baseline_id, one.sample_id] for one in asked]
    return SplitTable(
        split=split,
        n=len(asked),
        n_failed=sum(answer.status == "failed" for answer in of_baseline),
        baseline=right_share(of_baseline),
        unread=unread_share(of_baseline),
        whatsup=_whatsup(record.baseline_id, asked, answers),
        rows=tuple(_row(record, split, one) for one in _shown(record, split)),
    )


def _row(record: SweepRecord, split: str, choice: Choice) -> TableRow:
    nulls = record.nulls.get(choice.vector_id or "") if split == "search" else None
    controls, rank_p = rank_controls(choice, nulls or record, split)
    return TableRow(
        name=choice.arm,
        role=choice.role,
        split=split,
        vector_id=choice.vector_id,
        method=choice.method,
        concept=choice.concept,
        lineage=choice.lineage,
        cell_id=choice.cell_id,
        cell=record.cells[choice.cell_id],
        rule=choice.rule,
        n_cells=choice.n_cells,
        comparison=compare_cells(record, split, record.baseline_id, choice.cell_id),
        p_holm=1.0,
        controls=controls,
        rank_p=rank_p,
        bias=_bias(record, split, choice),
        whatsup=_whatsup(choice.cell_id, record.asked(split), record.answers[split]),
        damage=_damage(choice),
        predictors=Predictors.from_json(choice.details.get("predictors", {})),
        side_effects=tuple(SideEffect(**one) for one in choice.details.get("panel", ())),
        race={k: v for k, v in choice.details["race"].items() if k != "dropped"} if "race" in choice.details else None,
        vectors=tuple(choice.details.get("vectors", ())),
    )


def _damage(choice: Choice) -> Damage | None:
    found: Mapping[str, Any] | None = choice.details.get("damage")
    if found is None:
        return None
    numbers: dict[str, Any] = {name: math.nan if value is None else value for name, value in found.items()}
    return Damage(**numbers)


def _ranked(record: SweepRecord, split: str, cell_id: str) -> RankedGain:
    """What a cell is ranked by, over the questions that it was asked."""
    answers = record.answers[split]
    asked = [one.sample_id for one in record.asked(split) if (cell_id, one.sample_id) in answers]
    return ranked_gain(*([answers[cell, sample] for sample in asked] for cell in (record.baseline_id, cell_id)))


def _bias(record: SweepRecord, split: str, choice: Choice) -> SelectionBias | None:
    """How much of the search gain came from choosing, and on the test split what is left of it.

    Over the questions that the baseline answered; what a cell failed at is wrong, as where it was chosen. So a strength that
    overflows says nothing about another one.
    """
    if choice.rule != "exhaustive" or not record.answers.get("search"):
        return None
    ids, baseline_id = cells_of(record, choice), record.baseline_id
    answers = record.answers["search"]
    asked = [one for one in record.asked("search") if answers[baseline_id, one.sample_id].status == "ok"]
    if len(ids) < 2 or len({one.group_id for one in asked}) < 2:
        return None
    samples = [one.sample_id for one in asked]
    states, (base,) = states_of(ids, samples, answers), states_of([baseline_id], samples, answers)
    bias = selection_bias(
        states == RIGHT,
        base == RIGHT,
        [one.group_id for one in asked],
        alphas=[record.cells[one].alpha for one in ids],
        finished_c=finished(states),
        seed=record.seed,
    )
    if split != "test":
        return bias
    answers = record.answers[split]
    both = (baseline_id, choice.cell_id)
    asked = [one for one in record.asked(split) if all(_ok(answers.get((c, one.sample_id))) for c in both)]
    base, chosen = states_of(both, [one.sample_id for one in asked], answers) == RIGHT
    return with_test(bias, chosen, base, [one.group_id for one in asked])


def _ok(answer: Answer | None) -> bool:
    return answer is not None and answer.status == "ok"


def _whatsup(cell_id: str, asked: Questions, answers: Answers) -> WhatsUpScore | None:
    """What'sUp's three accuracies, for that benchmark; failed samples are left out, and their sets are partial."""
    ok = [one for one in asked if _ok(answers.get((cell_id, one.sample_id)))]
    if not ok or any(one.set_id is None or one.relation is None for one in ok):
        return None
    return whatsup_score(
        [bool(answers[cell_id, one.sample_id].correct) for one in ok],
        [str(one.set_id) for one in ok],
        [str(one.relation) for one in ok],
    )


def _failures(record: SweepRecord) -> tuple[Failure, ...]:
    return tuple(
        Failure(split=split, place=one.place, error=answer.error or "")
        for split in PARTS
        if record.answers.get(split)
        for one in record.asked(split)
        if (answer := record.answers[split][record.baseline_id, one.sample_id]).status == "failed"
    )


def _cells(record: SweepRecord) -> tuple[CellRow, ...]:
    """Every cell of the sweep's vectors over the search split."""
    answers = record.answers.get("search")
    arms = [one for one in record.choices if one.role == "vector"]
    if not answers or not arms:
        return ()
    of_arm: dict[str, str] = {}
    for one in arms:
        for cell_id in cells_of(record, one):
            of_arm.setdefault(cell_id, one.arm)  # a part of a combination that stands alone may be a cell of the grid
    vectors = {one.cell_id: tuple(one.details["vectors"]) for one in arms if "vectors" in one.details}
    dropped = {cell_id for one in arms for cell_id in one.details.get("race", {}).get("dropped", ())}
    return cell_rows(
        of_arm,
        record.cells,
        record.baseline_id,
        record.asked("search"),
        answers,
        whole=all(one.rule in ("single", "exhaustive") for one in arms),
        dropped=frozenset(dropped),
        seed=record.seed,
        vectors=vectors,
    )
