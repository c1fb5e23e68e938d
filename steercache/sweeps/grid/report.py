"""A sweep's table made again from its stored answers: what each vector chose, how it compares, and the grid it chose among.

Reads the cache only: no model, no benchmark. The same functions as in `run.evaluate` and `grid.run_grid` make the numbers.
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.benchmarks.comparison import (
    Comparison,
    RankedGain,
    adjusted,
    compare,
    rank_among,
    ranked_gain,
    unread_share,
)
from steercache.benchmarks.questions import StoredQuestion, read_questions
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.ids import resolve_name
from steercache.core.trials import Answer
from steercache.queries.session import Session
from steercache.stats.choice import choose_cell
from steercache.sweeps.evaluation.ledger import count_looks, read_entries

PARTS: Final = ("search", "test")
Float64Array = npt.NDArray[np.float64]

_SWEEPS = "SELECT sweep_id, name FROM sweeps ORDER BY created_at DESC, sweep_id"
_GRIDS_OF = """
SELECT sweep_id, name FROM sweeps
WHERE manifest ->> '$.sweep' = $sweep AND manifest ->> '$.kind' = 'grid'
ORDER BY created_at DESC, sweep_id
"""
_CELLS = """
SELECT
    c.cell_id, c.vector_id, c.layer, c.alpha, c.alpha_unit, c.target, c.prompt_id,
    v.name, v.method, v.concept, v.control_kind
FROM cells c
LEFT JOIN (SELECT DISTINCT vector_id, name, method, concept, control_kind FROM vectors) v ON v.vector_id = c.vector_id
WHERE c.sweep_id = $sweep
"""
_ANSWERS = "SELECT cell_id, sample_id, split, raw, parsed, correct, status, error FROM answers WHERE sweep_id = $sweep"
_SWEEP = "SELECT sweep_id, name, status, created_at, manifest FROM sweeps WHERE sweep_id = $sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOf:
    """One setting as the index has it; `vector_id` None is the model without a vector."""

    cell_id: str
    vector_id: str | None
    layer: int | None
    alpha: float
    alpha_unit: str
    target: str
    prompt_id: str
    name: str | None
    method: str | None
    concept: str | None
    control_kind: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlGain:
    """What one control gained at the setting that it chose itself."""

    name: str
    kind: str
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """One arm on one split, at the setting chosen on the search split; `p_holm` is adjusted for the rows of the split.
    `lineage` is None where the sweep did not record it."""

    name: str
    role: str
    method: str | None
    concept: str | None
    cell: CellOf
    comparison: Comparison
    p_holm: float
    controls: tuple[ControlGain, ...] = ()
    rank_p: float | None = None
    lineage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """The table of one split; `baseline` is the share of right answers without a vector, `unread` of answers read as none."""

    split: str
    n: int
    n_failed: int
    baseline: float
    unread: float
    rows: tuple[ReportRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GainMap:
    """Gains of one vector over its grid on the search split, shape (layers, alphas); NaN where a cell was not run whole."""

    vector: str
    target: str
    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    alpha_unit: str
    gain_la: Float64Array = field(repr=False)
    chosen: tuple[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """Everything that a page about a sweep says. `n_looks` is how often its test split was looked at (None: it was not);
    `clustered` is False where the sweep does not say which picture a sample is of, so that each stands for itself.
    `n_namesakes` is how many other sweeps have its name."""

    sweep_id: str
    name: str
    status: str
    created_at: str | None
    n_namesakes: int
    manifest: Mapping[str, Any]
    model: str
    benchmark: str
    rule: str
    splits: tuple[SplitReport, ...]
    maps: tuple[GainMap, ...]
    n_answers: int
    n_looks: int | None
    clustered: bool
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSweep:
    """A sweep's cells and answers; `answers` by split, cell and sample."""

    manifest: Mapping[str, Any]
    cells: tuple[CellOf, ...]
    answers: Mapping[str, Mapping[str, Mapping[str, Answer]]]
    questions: Mapping[str, StoredQuestion]

    @property
    def seed(self) -> int:
        return int(self.manifest.get("seed", 0))

    def groups(self, samples: Sequence[str]) -> dict[str, str]:
        return {s: self.questions[s].group_id if s in self.questions else s for s in samples}

    def right(self, samples: Sequence[str]) -> dict[str, str] | None:
        found = {s: self.questions[s].right for s in samples if s in self.questions}
        return {s: r for s, r in found.items() if r is not None} if self.questions else None


def read_sweep(session: Session, wanted: str) -> SweepReport:
    """The report of the sweep that answers to a name, an id or a unique prefix; of several of one name the newest.

    Raises:
        NotFoundError: no such sweep; UsageError: its answers are neither right nor wrong, or it has no baseline.
        A sweep manifest's name means its newest stored grid; UsageError where it has several tasks.
    """
    known = (
        [(str(a), str(b)) for a, b in session.sql(_SWEEPS).fetchall()] if session.cache.paths.sweeps.is_dir() else []
    )
    if not known:
        raise NotFoundError("there is no sweep yet", hint="run an evaluation or a grid first")
    sweep_id = _of_sweep_manifest(session, wanted, known) or resolve_name(
        wanted, known, noun="sweep", list_command='steercache query "select sweep_id, name from sweeps"'
    )
    head = session.sql(_SWEEP, sweep=sweep_id).to_arrow_table().to_pylist()[0]
    stored = stored_sweep(session, sweep_id, head["manifest"])
    splits = tuple(_split_report(stored, split) for split in PARTS if stored.answers.get(split))
    if not splits:
        raise UsageError(f"the sweep {head['name']!r} has no answers of a search or test split", hint=_HINT)
    looked = [look for look in read_entries(session.cache.root) if look.subject == sweep_id]
    n_looks = None
    if looked:
        look = looked[0]
        n_looks = count_looks(session.cache.root, dataset=look.dataset, rule=look.rule, split="test", task=look.task)
    of_baseline = [a for split in stored.answers.values() for a in split.get(_baseline(stored).cell_id, {}).values()]
    asked_for = stored.manifest.get("benchmark") or stored.manifest.get("task") or {}
    named = [str(asked_for.get("name") or asked_for.get("benchmark") or ""), str(asked_for.get("task") or "")]
    return SweepReport(
        sweep_id=sweep_id,
        name=str(head["name"]),
        status=str(head["status"]),
        created_at=None if head["created_at"] is None else str(head["created_at"]),
        n_namesakes=sum(name == head["name"] for _, name in known) - 1,
        manifest=stored.manifest,
        model=str(stored.manifest.get("model", {}).get("name", "")),
        benchmark=" ".join(part for part in named if part),
        rule=str(asked_for.get("rule", "")),
        splits=splits,
        maps=_maps(stored),
        n_answers=sum(len(some) for split in stored.answers.values() for some in split.values()),
        n_looks=n_looks,
        clustered=bool(stored.questions),
        failures=tuple(a.error or "" for a in of_baseline if a.status == "failed"),
    )


def _of_sweep_manifest(session: Session, wanted: str, known: Sequence[tuple[str, str]]) -> str | None:
    """The newest stored grid of the sweep manifest named `wanted`; None where a stored sweep has that very name or id.

    Raises:
        UsageError: the manifest has several tasks, each of which is a stored sweep; names them.
    """
    if any(wanted in pair for pair in known):
        return None
    stored = [(str(a), str(b)) for a, b in session.sql(_GRIDS_OF, sweep=wanted).fetchall()]
    names = sorted({name for _, name in stored})
    if len(names) > 1:
        listed = ", ".join(map(repr, names))
        raise UsageError(
            f"the sweep {wanted!r} has {len(names)} tasks: {listed}",
            hint=f"steercache report html {shlex.quote(names[0])}",
        )
    return stored[0][0] if stored else None


def stored_sweep(session: Session, sweep_id: str, manifest: Any) -> StoredSweep:
    """A sweep's cells and answers from the cache. Raises UsageError when its answers are neither right nor wrong."""
    cells = [CellOf(**row) for row in session.sql(_CELLS, sweep=sweep_id).to_arrow_table().to_pylist()]
    answers: dict[str, dict[str, dict[str, Answer]]] = {}
    for row in session.sql(_ANSWERS, sweep=sweep_id).to_arrow_table().to_pylist():
        answer = Answer(**row)
        answers.setdefault(answer.split, {}).setdefault(answer.cell_id, {})[answer.sample_id] = answer
    if all(a.correct is None for split in answers.values() for some in split.values() for a in some.values()):
        raise UsageError("the answers of this sweep are neither right nor wrong", hint=_HINT)
    parsed = _as_mapping(manifest)
    return StoredSweep(
        manifest=parsed,
        cells=tuple(sorted(cells, key=lambda c: _preference(c, parsed))),
        answers=answers,
        questions=read_questions(session.cache.paths.sweep(sweep_id)),
    )


def _as_mapping(manifest: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(manifest) if isinstance(manifest, str) else manifest
    return found


def _preference(cell: CellOf, manifest: Mapping[str, Any]) -> tuple[int, int, int, str]:
    """The order of equals when a setting is chosen: as the sweep's grid lists targets, layers and strengths."""
    grid = manifest.get("grid", {})

    def place(key: str, value: Any) -> int:
        listed = list(grid.get(key, ()))
        return listed.index(value) if value in listed else len(listed)

    return place("targets", cell.target), place("layers", cell.layer), place("alphas", cell.alpha), cell.cell_id


def _baseline(stored: StoredSweep) -> CellOf:
    plain = [c for c in stored.cells if c.vector_id is None and c.prompt_id == "plain"]
    if not plain:
        raise UsageError("the sweep has no baseline: no cell without a vector under the plain wording", hint=_HINT)
    return plain[0]


def _arms(stored: StoredSweep) -> dict[str, list[CellOf]]:
    """Cells by arm: "" holds the prompting baseline's, a vector's id its own; in the order of the sweep's manifest."""
    found: dict[str, list[CellOf]] = {}
    for cell in stored.cells:
        if cell.vector_id is not None:
            found.setdefault(cell.vector_id, []).append(cell)
        elif cell.prompt_id != "plain":
            found.setdefault("", []).append(cell)
    listed = [arm.get("vector") or "" for arm in stored.manifest.get("arms", ())]
    listed += list(stored.manifest.get("vectors", {}).values())
    order = {key: at for at, key in reversed(list(enumerate(listed)))}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def _chosen(stored: StoredSweep, cells: Sequence[CellOf]) -> CellOf:
    """The arm's cell with most right answers on the search split, of equals that of the smallest strength; cells that a race
    ended early are not chosen."""
    answers = stored.answers.get("search", {})
    whole = [c for c in cells if c.cell_id in answers]
    most = max((len(answers[c.cell_id]) for c in whole), default=0)
    whole = [c for c in whole if len(answers[c.cell_id]) == most]
    tested = [c for c in cells if c.cell_id in stored.answers.get("test", {})]
    if len(tested) == 1 or not whole:  # a test split is answered by the chosen cell alone
        return tested[0] if tested else cells[0]
    samples = sorted({s for c in whole for s in answers[c.cell_id]})
    correct = np.array(
        [[bool(a.correct) if (a := answers[c.cell_id].get(s)) else False for s in samples] for c in whole]
    )
    return whole[choose_cell(correct, [c.alpha for c in whole])]


def _split_report(stored: StoredSweep, split: str) -> SplitReport:
    answers = stored.answers[split]
    baseline = answers.get(_baseline(stored).cell_id)
    if not baseline:
        raise UsageError(f"the baseline has no answers of the {split} split", hint=_HINT)
    ok = [a for a in baseline.values() if a.status == "ok"]
    arms = _arms(stored)
    chosen = {key: _chosen(stored, cells) for key, cells in arms.items()}
    of = {arm["vector"]: arm["control_of"] for arm in stored.manifest.get("arms", ()) if arm.get("control_of")}
    lineage = dict(stored.manifest.get("lineages", {}))  # of a grid; an evaluation has it with its arms
    lineage |= {arm["vector"]: arm.get("lineage") for arm in stored.manifest.get("arms", ()) if arm.get("vector")}
    rows = []
    for key, cell in chosen.items():
        if cell.control_kind is not None or key in of or cell.cell_id not in answers:
            continue
        comparison = _compared(stored, answers, cell)
        own = [chosen[c] for c, real in of.items() if real == key and c in chosen and chosen[c].cell_id in answers]
        gains = [(c, _gain(answers, baseline, c)) for c in own]
        controls = tuple(
            ControlGain(name=c.name or "", kind=c.control_kind or "", gain=gain)
            for c, gain in gains
            if not math.isnan(gain)  # a control that answered nothing has no place among the others
        )
        rows.append(
            ReportRow(
                name="prompting" if not key else cell.name or key[:12],
                role="prompting" if not key else "vector",
                method=cell.method,
                concept=cell.concept,
                cell=cell,
                comparison=comparison,
                p_holm=1.0,
                controls=controls,
                rank_p=rank_among(_ranked(answers, baseline, cell), [_ranked(answers, baseline, c) for c in own]),
                lineage=lineage.get(key),
            )
        )
    p_holm = adjusted([row.comparison for row in rows]) if rows else ()
    return SplitReport(
        split=split,
        n=len(baseline),
        n_failed=len(baseline) - len(ok),
        baseline=sum(bool(a.correct) for a in ok) / len(ok) if ok else 0.0,
        unread=unread_share(ok),
        rows=tuple(replace(row, p_holm=p) for row, p in zip(rows, p_holm, strict=True)),
    )


def _compared(stored: StoredSweep, answers: Mapping[str, Mapping[str, Answer]], cell: CellOf) -> Comparison:
    """The cell against the baseline over the samples that both were asked."""
    return compare_cells(stored, answers[_baseline(stored).cell_id], answers[cell.cell_id])


def compare_cells(stored: StoredSweep, before: Mapping[str, Answer], after: Mapping[str, Answer]) -> Comparison:
    """Two cells of a sweep over the samples that both were asked; answers by sample."""
    samples = [s for s in _in_order(stored, before) if s in after]
    return compare(
        [before[s] for s in samples],
        [after[s] for s in samples],
        stored.groups(samples),
        right=stored.right(samples),
        seed=stored.seed,
    )


def _in_order(stored: StoredSweep, samples: Mapping[str, Answer]) -> list[str]:
    """As they were asked, where that is known: the bootstrap's draws depend on it."""
    return [s for s in stored.questions if s in samples] if stored.questions else sorted(samples)


def _gain(answers: Mapping[str, Mapping[str, Answer]], baseline: Mapping[str, Answer], cell: CellOf) -> float:
    """Share of right answers more than the baseline's, over what both answered; NaN for nothing."""
    own = answers[cell.cell_id]
    both = [s for s in baseline if s in own and baseline[s].status == own[s].status == "ok"]
    if not both:
        return float("nan")
    return float(np.mean([bool(own[s].correct) - bool(baseline[s].correct) for s in both]))


def _ranked(answers: Mapping[str, Mapping[str, Answer]], baseline: Mapping[str, Answer], cell: CellOf) -> RankedGain:
    """What a cell is ranked by, over the samples that it was asked."""
    own = answers[cell.cell_id]
    asked = [s for s in baseline if s in own]
    return ranked_gain([baseline[s] for s in asked], [own[s] for s in asked])


def _maps(stored: StoredSweep) -> tuple[GainMap, ...]:
    """Gains over layers and strengths, for every real vector and target with more than one cell."""
    answers = stored.answers.get("search", {})
    baseline = answers.get(_baseline(stored).cell_id, {})
    found = []
    for key, cells in _arms(stored).items():
        if not key or cells[0].control_kind is not None:
            continue
        chosen = _chosen(stored, cells)
        for target in dict.fromkeys(c.target for c in cells):
            own = [c for c in cells if c.target == target and c.cell_id in answers]
            layers = tuple(sorted({c.layer for c in own if c.layer is not None}))
            alphas = tuple(sorted({c.alpha for c in own}))
            if len(own) < 2:
                continue
            gain_la = np.full((len(layers), len(alphas)), np.nan)
            for c in own:
                if c.layer is not None and len(answers[c.cell_id]) == len(baseline):
                    gain_la[layers.index(c.layer), alphas.index(c.alpha)] = _gain(answers, baseline, c)
            found.append(
                GainMap(
                    vector=cells[0].name or key[:12],
                    target=target,
                    layers=layers,
                    alphas=alphas,
                    alpha_unit=cells[0].alpha_unit,
                    gain_la=gain_la,
                    chosen=(chosen.layer if chosen.layer is not None else -1, chosen.alpha)
                    if chosen.target == target
                    else (-1, 0.0),
                )
            )
    return tuple(found)


_HINT = "a page is made of an evaluation or a grid"
