"""Choosing the execution mode before a runner starts, and storing it, so that a resumed run continues in it.

Answers of different ways agree within rounding, not to the last bit. So what a sweep was begun in is kept beside its answers.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steercache.answers.batches import Expected, Runner, question_batches
from steercache.answers.costs import DOING, MODES, MachineCosts, ModeChoice, choose_mode, predict_seconds
from steercache.answers.lengths import LEAST_ANSWERS, N_ASKED, AnswerLengths, known_lengths, lengths_here
from steercache.answers.replays import ReplayRun, find_replay
from steercache.answers.replies import with_pixels
from steercache.answers.ways import BRANCHED, ExecutionPlan
from steercache.answers.work import PendingWork, work_of
from steercache.benchmarks.task import EncodedQuestion, Part
from steercache.cache.handle import CacheFolder
from steercache.cells.arms import ArmCell
from steercache.cells.options import ModeRequest
from steercache.core.activity import announce
from steercache.core.errors import SteercacheWarning
from steercache.core.ids import canonical_json
from steercache.core.numerics import numeric_differences
from steercache.core.trials import Mode
from steercache.models.spec import LoadedModel
from steercache.steering.recompute import obstacle_of
from steercache.store.durable import make_folder, read_bytes, write_file_atomically
from steercache.trace.batches import pad_batch
from steercache.trace.numerics import numerics_of

FILE_NAME: Final = "ways.json"
NUMERICS: Final = "numerics.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeChooser:
    """Chooses for the runs of one sweep; `folder` is the sweep's."""

    cache: CacheFolder
    costs: MachineCosts
    folder: Path
    wanted: ModeRequest = "auto"

    def choose(
        self, runner: Runner, asked: Sequence[EncodedQuestion], settings: Sequence[ArmCell], split: Part
    ) -> ModeChoice:
        """Set the runner's execution mode for these cells over the questions of a split; returns the mode and the reason.

        Raises:
            UsageError: a way is wanted that cannot be taken.
        """
        work = work_of(asked, settings, runner.known, loaded=runner.loaded, options=runner.options)
        lengths = self._lengths(runner, asked, settings, work)
        if lengths:
            work = work_of(asked, settings, runner.known, loaded=runner.loaded, options=runner.options, lengths=lengths)
        barred, rows = self.barred(runner, asked, settings, work)
        begun = begun_in(self.folder)
        choice = choose_mode(
            work, predict_seconds(self.costs, work), barred, wanted=self.wanted, begun=begun.get(split)
        )
        if choice.mode == "read":
            runner.way = BRANCHED
            return choice
        keep_numerics(self.folder, runner.loaded)
        runner.way = ExecutionPlan(mode=choice.mode, rows=rows if choice.mode == "replay" else None)
        runner.expected = Expected(
            key=self.costs.key,
            seconds=choice.seconds[choice.mode] / self.costs.factor,
            n_answers=choice.n_to_compute,
        )
        _ = runner.tie_nats  # measured once on a machine, and no part of what is announced
        announce(f"{DOING[choice.mode]} {choice.n_to_compute:,} answers", choice.seconds[choice.mode])
        if begun.get(split) != choice.mode:
            make_folder(self.folder)
            write_file_atomically(self.folder / FILE_NAME, canonical_json({**begun, split: choice.mode}))
        return choice

    def _lengths(
        self, runner: Runner, asked: Sequence[EncodedQuestion], settings: Sequence[ArmCell], work: PendingWork
    ) -> dict[str, AnswerLengths]:
        """How long answers are, by kind: known, or, where there are many to compute, found out."""
        kinds, paths = sorted({one.kind for one in asked}), self.cache.paths
        if work.first_tokens_only or work.n_to_compute < LEAST_ANSWERS:
            return known_lengths(paths, runner.loaded.spec, runner.options, kinds)
        ready: dict[str, list[EncodedQuestion]] = {}
        for kind in kinds:
            first = next(
                (b for b in question_batches(asked, runner.options, runner.loaded.bundle) if b[0].kind == kind), ()
            )
            ready[kind], _ = with_pixels(first[:N_ASKED])
        return lengths_here(paths, runner.loaded, ready, settings[0], runner.options)

    def barred(
        self, runner: Runner, asked: Sequence[EncodedQuestion], settings: Sequence[ArmCell], work: PendingWork
    ) -> tuple[dict[Mode, str], ReplayRun | None]:
        """Ways that cannot be taken, with the reason, and the rows that a replay would start from."""
        if not work.n_to_compute:
            return {}, None
        obstacle = _obstacle(runner, asked)
        if obstacle is not None:
            return {"replay": obstacle, "branch": obstacle}, None
        rows, why = rows_for(self.cache, runner.loaded, asked, settings, work)
        return ({} if rows is not None else {"replay": why}), rows


def rows_for(
    cache: CacheFolder,
    loaded: LoadedModel,
    asked: Sequence[EncodedQuestion],
    settings: Sequence[ArmCell],
    work: PendingWork,
) -> tuple[ReplayRun | None, str]:
    """Rows that a replay of these settings could start from; without them, why it cannot be."""
    if not work.first_tokens_only:
        limit = 1 + max(batch.n_more for batch in work.batches)
        return (
            None,
            f"cached rows give an answer's first token only, and answers may have {limit} tokens; limited to one, they can be"
            " replayed",
        )
    below = {s.below: s.cell.site for s in settings if s.below is not None}
    if -1 in below:
        return None, f"rows are kept of the outputs of blocks, and {below[-1]} of block 0 lies below the first of them"
    layers = sorted(below) or [loaded.spec.n_layers - 1]
    looked_at = {layer for s in settings for clause in s.clauses.values() for layer in clause.layers}
    return find_replay(cache, loaded, asked, sorted({*layers, *looked_at}))


def _obstacle(runner: Runner, asked: Sequence[EncodedQuestion]) -> str | None:
    """Why this model's blocks cannot be run alone, seen on the first question that can be asked."""
    for one in asked:
        ready, _ = with_pixels([one]) if one.encoded is not None else ([], [])
        if ready and ready[0].encoded is not None:
            return obstacle_of(
                runner.loaded, pad_batch([ready[0].encoded], padding_side="left", pad_id=runner.loaded.pad_id)
            )
    return None


def keep_numerics(folder: Path, loaded: LoadedModel) -> None:
    """Keep what a sweep's answers are computed under, beside them; warn where earlier ones were computed under something else.

    A warning, not an error: such answers agree within the stated tolerance, as those of different batches do.
    """
    path, now = folder / NUMERICS, numerics_of(loaded)
    try:
        begun = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):
        begun = None
    if not isinstance(begun, dict):
        make_folder(folder)
        write_file_atomically(path, canonical_json(now))
        return
    differences = numeric_differences(begun, now)
    if differences:
        warnings.warn(
            f"earlier answers of this sweep were computed under other numerics: {'; '.join(differences)}; "
            "near-ties may be answered differently",
            SteercacheWarning,
            stacklevel=2,
        )


def begun_in(folder: Path) -> dict[str, Mode]:
    """The execution mode in which each split of a sweep was begun; empty where the file cannot be read."""
    try:
        found = json.loads(read_bytes(folder / FILE_NAME))
    except (OSError, ValueError, RecursionError):
        return {}
    known = {mode: mode for mode in MODES}
    return {k: known[v] for k, v in found.items() if v in known} if isinstance(found, dict) else {}
