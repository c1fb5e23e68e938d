"""Norms of the rows that a task's cells steer, measured once per model, dtype and questions, and kept in the cache.

They are part of what a cell in the unit "target_norm" is. So they come from one file: a grid taken up again, null directions
and a screening without a model all count in exactly the same numbers.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from steercache.answers.replies import with_pixels
from steercache.benchmarks.task import EncodedQuestion
from steercache.cache.handle import CacheFolder
from steercache.cache.lock_wait import hold_folder
from steercache.cells.sweep import SweepJob, TaskQuestions
from steercache.core.errors import DamagedError, PartlyFailedError
from steercache.core.ids import canonical_json, digest
from steercache.core.vector_use import PlaceName
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.queries.token_clause import TokenClause
from steercache.steering.row_norms import row_norms
from steercache.store.durable import make_folder, read_bytes, write_file_atomically
from steercache.trace.batches import pad_batch

N_QUESTIONS: Final = 32
TARGETS: Final = ("image", "text", "both", "all", "last")  # questions have no videos and no sounds
RowNorms = Mapping[str, tuple[float | None, ...]]  # by target, layer after layer; None: no rows


def row_norms_of(
    cache: CacheFolder,
    bundle: TokenizerBundle,
    asked: Sequence[EncodedQuestion],
    *,
    load: Callable[[], LoadedModel],
    clauses: Mapping[str, TokenClause] = MappingProxyType({}),
    place: PlaceName = "resid_post",
) -> RowNorms:
    """Median over the first `N_QUESTIONS` questions of the median norm of a target's rows, position 0 left out.

    `asked` is a search split under the plain wording. `load` is called where the cache does not have them. `clauses` are
    targets written as SQL, by their text; each has a file of its own.

    Raises:
        DamagedError: the file that holds them cannot be read; PartlyFailedError: no question's picture can be.
    """
    questions = first_questions(asked)
    groups: list[Mapping[str, str | TokenClause]] = [{name: name for name in TARGETS}]
    groups += [{text: clause} for text, clause in clauses.items()]
    found: dict[str, tuple[float | None, ...]] = {}
    for targets in groups:
        known = _known(cache, bundle, questions, tuple(targets), place)
        if known is None:
            _keep(cache, bundle, questions, _measure(load(), questions, targets, place), place)
            known = _known(cache, bundle, questions, tuple(targets), place)  # as it will be read
            assert known is not None
        found |= known
    return found


def known_row_norms(
    cache: CacheFolder,
    bundle: TokenizerBundle,
    asked: Sequence[EncodedQuestion],
    clauses: Sequence[str] = (),
    *,
    place: PlaceName = "resid_post",
) -> RowNorms | None:
    """What was measured of these questions; None: something is not yet. Raises DamagedError."""
    questions = first_questions(asked)
    parts = [_known(cache, bundle, questions, some, place) for some in (TARGETS, *((text,) for text in clauses))]
    found: dict[str, tuple[float | None, ...]] = {}
    for part in parts:
        if part is None:
            return None
        found |= part
    return found


def _keep(
    cache: CacheFolder,
    bundle: TokenizerBundle,
    questions: Sequence[EncodedQuestion],
    norms: Mapping[str, list[float | None]],
    place: PlaceName,
) -> None:
    identity = _identity(bundle, questions, tuple(norms), place)
    document = {**identity, "model": bundle.spec.name, "n_questions": len(questions), "norms": dict(norms)}
    path = cache.paths.row_norms / f"{digest(identity)}.json"
    make_folder(path.parent)
    with hold_folder(path.parent):
        if not path.exists():  # else another process was quicker: what was written first holds
            write_file_atomically(path, canonical_json(document) + b"\n")


def _known(
    cache: CacheFolder,
    bundle: TokenizerBundle,
    questions: Sequence[EncodedQuestion],
    targets: tuple[str, ...],
    place: PlaceName,
) -> dict[str, tuple[float | None, ...]] | None:
    path = cache.paths.row_norms / f"{digest(_identity(bundle, questions, targets, place))}.json"
    if not path.exists():
        return None
    try:
        norms = json.loads(read_bytes(path))["norms"]
        return {target: tuple(None if x is None else float(x) for x in norms[target]) for target in targets}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"not the norms of a task's rows: {error}", place=str(path), hint="delete it: they are measured again"
        ) from error


def with_target_norms(job: SweepJob, task: TaskQuestions, *, load: Callable[[], LoadedModel] | None = None) -> SweepJob:
    """The job with the cells of one task, where alpha counts in norms of the task's rows; otherwise the job unchanged.

    Without `load` nothing is measured: cells whose norms are not known are of no task. Raises as `row_norms_of`.
    """
    if "target_norm" not in job.grid.options.axes.units:
        return job
    cache, bundle, asked = job.session.cache, job.loaded.bundle, task.asked["search"]
    clauses, place = job.grid.options.axes.clauses, job.grid.options.axes.site
    norms = (
        known_row_norms(cache, bundle, asked, tuple(clauses), place=place)
        if load is None
        else row_norms_of(cache, bundle, asked, load=load, clauses=clauses, place=place)
    )
    return job if norms is None else replace(job, grid=job.grid.with_norms(job.loaded, norms))


def first_questions(asked: Sequence[EncodedQuestion]) -> tuple[EncodedQuestion, ...]:
    """The first `N_QUESTIONS` that can be encoded, in the seeded order of `task.pick_rows`, whatever order they come in."""
    askable = [one for one in asked if one.encoded is not None]
    return tuple(sorted(askable, key=lambda one: hashlib.sha256(one.place.encode()).digest())[:N_QUESTIONS])


def _identity(
    bundle: TokenizerBundle,
    questions: Sequence[EncodedQuestion],
    targets: tuple[str, ...] = TARGETS,
    place: PlaceName = "resid_post",
) -> dict[str, Any]:
    spec = bundle.spec
    of_targets = {} if targets == TARGETS else {"target": targets[0]}
    return (
        of_targets
        | ({} if place == "resid_post" else {"place": place})
        | {
            "fingerprint": spec.fingerprint,
            "dtype": spec.dtype,
            "tokenizer": spec.tokenizer_digest,
            "samples": digest([one.sample_id for one in questions]),
        }
    )


def _measure(
    loaded: LoadedModel,
    questions: Sequence[EncodedQuestion],
    targets: Mapping[str, str | TokenClause],
    place: PlaceName,
) -> dict[str, list[float | None]]:
    """By target, layer after layer; question by question, so that no batching has a say."""
    ready, broken = with_pixels(questions)
    if not ready:
        raise PartlyFailedError(f"no picture can be read; the first: {broken[0].error}", place=broken[0].place)
    found = []
    for one in ready:
        assert one.encoded is not None
        batch = pad_batch([one.encoded], padding_side="left", pad_id=loaded.pad_id)
        found.append(row_norms(loaded, batch, targets=tuple(targets.values()), place=place)[:, 0])
    norms_nlt = np.stack(found)
    norms: dict[str, list[float | None]] = {}
    for t, target in enumerate(targets):
        known = norms_nlt[~np.isnan(norms_nlt[:, :, t]).all(axis=1), :, t]
        medians = np.median(known, axis=0).tolist() if len(known) else [None] * norms_nlt.shape[1]
        norms[target] = [None if one is None or math.isnan(one) else one for one in medians]
    return norms
