"""The unsteered answers beside a screening: the same ones that `grid` and `eval` count, so that all print one accuracy.

Predictions start from margins of first tokens; what the model really answers is read from the cache, or answered now where the
model is in memory anyway.
"""

from collections.abc import Sequence

from steercache.answers.batches import Runner, scored
from steercache.answers.option_tokens import margins_wanted
from steercache.answers.store import Key, StoredAnswer, SweepWriter, stored_answers
from steercache.benchmarks.task import EncodedQuestion, Progress
from steercache.cells.arms import ArmCell
from steercache.cells.options import EvalOptions
from steercache.core.ids import digest
from steercache.models.ends import answer_identity
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session


def stored_baseline(session: Session, asked: Sequence[EncodedQuestion], baseline: ArmCell) -> float | None:
    """Share of right answers among those that the cache has; None where an answer is missing."""
    wanted = {one.sample_id: None for one in asked}
    return _share(asked, baseline, stored_answers(session.cache, [baseline.cell.cell_id], margins=wanted))


def answer_baseline(
    session: Session,
    loaded: LoadedModel,
    asked: Sequence[EncodedQuestion],
    baseline: ArmCell,
    *,
    name: str,
    options: EvalOptions,
    progress: Progress | None = None,
) -> float | None:
    """The same, after answering what the cache lacks; the answers are kept, and a grid that comes later reads them."""
    cache, cell_id = session.cache, baseline.cell.cell_id
    manifest = {
        "kind": "baseline",
        "model": answer_identity(loaded),
        "samples": digest([one.sample_id for one in asked]),
        "cells": digest([cell_id]),
        "decoding": options.decoding.identity,
    }
    writer = SweepWriter(cache=cache, name=f"{name}: baseline", manifest=manifest)
    with writer.held():
        known = stored_answers(cache, [cell_id], margins=margins_wanted(asked, loaded.tokenizer))
        runner = Runner(loaded=loaded, options=options, writer=writer, known=known, progress=progress)
        answers = runner.run(asked, [baseline])
        failed = any(answer.status == "failed" for answer in answers.values())
        writer.save(status="partly_failed" if failed else "complete")
    right = [bool(answer.correct) for answer in answers.values() if answer.status == "ok"]
    return sum(right) / len(right) if right else None


def _share(asked: Sequence[EncodedQuestion], baseline: ArmCell, known: dict[Key, StoredAnswer]) -> float | None:
    cell_id, askable = baseline.cell.cell_id, [one for one in asked if one.encoded is not None]
    if not askable or any((cell_id, one.sample_id) not in known for one in askable):
        return None
    answers = [scored(one, cell_id, known[cell_id, one.sample_id]) for one in askable]
    return sum(bool(answer.correct) for answer in answers) / len(answers)
