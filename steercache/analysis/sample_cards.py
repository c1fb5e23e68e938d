"""Questions of a sweep as cards: the picture, its patches along the vector, the words, and the answers before and after."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from steercache.analysis.patches import PatchMap, PictureSample, patch_maps
from steercache.analysis.pictures import picture_of
from steercache.benchmarks.pictures import MAX_SIDE, read_pictures
from steercache.core.errors import SteercacheError
from steercache.core.frame import ViewFrame
from steercache.core.trials import Answer
from steercache.queries.session import Session
from steercache.sweeps.changes import SHOWN, Change, ChangedAnswer, changes_of
from steercache.sweeps.record import SweepRecord
from steercache.sweeps.table import SweepTable, TableRow

MAX_CARDS: Final = 64  # on one page
_SAMPLES: Final = """
SELECT s.run_id, s.sample_idx, s.sample_id, s.dataset, s.ordinal, s.question, s.choices, s.answer, s.image_digest,
    r.manifest ->> '$.kind' IS NULL OR r.manifest ->> '$.kind' <> 'gradients' AS is_trace
FROM samples s JOIN runs r ON r.run_id = s.run_id
WHERE s.sample_id IN (SELECT unnest($samples::VARCHAR[]))
ORDER BY r.complete DESC, r.created_at DESC, s.sample_idx
"""
_ROWS: Final = """
SELECT DISTINCT run_id FROM tokens WHERE kind = 'image' AND row_idx IS NOT NULL AND run_id IN (SELECT unnest($runs::VARCHAR[]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCard:
    """One question. `picture` is a small JPEG (None: the cache has none), `patches` the projections of its patches on the
    vector at the layer that is steered (None: no run kept their rows), which cover the part `frame` of the picture (None: all).
    """

    change: Change
    question: str | None
    choices: tuple[str, ...]
    right: str | None
    before: str | None
    after: str | None
    before_right: bool | None
    after_right: bool | None
    place: str
    has_picture: bool
    picture: bytes | None = field(default=None, repr=False)
    patches: PatchMap | None = field(default=None, repr=False)
    frame: ViewFrame | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCards:
    """The cards of one arm on one split, and how many questions changed in each way in all."""

    arm: str
    split: str
    layer: int | None
    counts: Mapping[Change, int]
    cards: tuple[SampleCard, ...]


def arm_cards(
    session: Session, table: SweepTable, record: SweepRecord, *, most: int = MAX_CARDS
) -> tuple[tuple[ArmCards, ...], tuple[str, ...]]:
    """Cards of every arm on the last split, `most` in all, and sentences about what is not there."""
    split = table.splits[-1]
    shown = _share(most, len(split.rows))
    samples = [one.sample_id for one in record.asked(split.split)]
    of_arm = {
        row.name: changes_of(
            record.answers[split.split], samples, before=record.baseline_id, after=row.cell_id, shown=shown
        )
        for row in split.rows
    }
    wanted = list(dict.fromkeys(one.sample_id for found in of_arm.values() for one in found.shown))
    seen = _Seen(session, record, wanted)
    found = tuple(
        ArmCards(
            arm=row.name,
            split=split.split,
            layer=row.cell.layer,
            counts=of_arm[row.name].counts,
            cards=tuple(seen.card(one, row) for one in of_arm[row.name].shown),
        )
        for row in split.rows
    )
    return found, seen.missing([card for one in found for card in one.cards])


def _share(most: int, n_arms: int) -> Mapping[Change, int]:
    """How many of each kind an arm may show, so that all stay within `most`."""
    whole = sum(SHOWN.values())
    part = min(1.0, most / (whole * max(n_arms, 1)))
    return {change: max(1, int(n * part)) if n * part >= 0.5 else 0 for change, n in SHOWN.items()}


class _Seen:
    """What the cache knows of some samples: their words, their pictures, their patches."""

    def __init__(self, session: Session, record: SweepRecord, samples: Sequence[str]) -> None:
        self._session, self._troubles = session, dict[str, None]()
        self._questions = {one.sample_id: one for one in record.questions}
        self._traced: dict[str, dict[str, Any]] = {}
        self._all: dict[str, list[dict[str, Any]]] = {}
        self._jpegs: dict[str, bytes | None] = {}
        try:
            self._jpegs |= read_pictures(session.cache.paths.sweep(record.sweep_id))
        except SteercacheError as error:
            self._troubles[f"{error.message}."] = None
        rows = session.sql(_SAMPLES, samples=list(samples)).to_arrow_table().to_pylist() if samples else []
        for row in rows:
            self._all.setdefault(str(row["sample_id"]), []).append(row)
        runs = sorted({str(row["run_id"]) for row in rows if row["is_trace"] and row["image_digest"] is not None})
        kept = {str(r) for (r,) in session.sql(_ROWS, runs=runs).fetchall()} if runs else set()
        for row in rows:
            if str(row["run_id"]) in kept:
                self._traced.setdefault(str(row["sample_id"]), row)

    def card(self, one: ChangedAnswer, row: TableRow) -> SampleCard:
        asked = self._questions.get(one.sample_id)
        known = next(iter(self._all.get(one.sample_id, ())), {})
        digest = (asked.image if asked else None) or known.get("image_digest")
        patches, frame = self._patches(one.sample_id, row)
        right = (asked.right if asked else None) or known.get("answer")
        choices = (asked.choices if asked else ()) or tuple(known.get("choices") or ())
        return SampleCard(
            change=one.change,
            question=(asked.question if asked else None) or known.get("question"),
            choices=tuple(str(c) for c in choices),
            right=None if right is None else str(right),
            before=_said(one.before),
            after=_said(one.after),
            before_right=one.before.correct,
            after_right=one.after.correct,
            place=asked.place if asked else one.sample_id[:12],
            has_picture=digest is not None,
            picture=None if digest is None else self._picture(str(digest), one.sample_id),
            patches=patches,
            frame=frame,
        )

    def missing(self, cards: Sequence[SampleCard]) -> tuple[str, ...]:
        """Sentences about what the cards lack."""
        said = list(self._troubles)
        pictured = [card for card in cards if card.has_picture]
        n_bare = sum(card.picture is None for card in pictured)
        if n_bare:
            said.append(
                f"{n_bare} of {len(pictured)} pictures are not in the cache. Running the sweep again stores them beside its"
                " answers; no answer is computed again."
            )
        steered = [card for card in pictured if card.patches is None]
        if steered:
            said.append(
                f"The patches of {len(steered)} of {len(pictured)} pictures are not coloured: no run of the cache kept the rows"
                " of these questions' image tokens at the layer that is steered."
            )
        if any(card.question is None for card in cards):
            said.append("An older steercache stored some questions without their words.")
        return tuple(said)

    def _picture(self, digest: str, sample_id: str) -> bytes | None:
        if digest not in self._jpegs:
            self._jpegs[digest] = None
            for row in self._all.get(sample_id, ()):
                if row["is_trace"] and row["image_digest"] == digest:
                    with suppress(SteercacheError, OSError, ValueError, KeyError, ImportError):
                        from steercache.data.pixels import small_jpeg  # Pillow: a page is made without it, too

                        self._jpegs[digest] = small_jpeg(picture_of(self._session, _sample(row)), MAX_SIDE)
                        break
        return self._jpegs[digest]

    def _patches(self, sample_id: str, row: TableRow) -> tuple[PatchMap | None, ViewFrame | None]:
        traced = self._traced.get(sample_id)
        if traced is None or row.vector_id is None or row.cell.layer is None or row.vectors:
            return None, None
        try:
            maps = patch_maps(
                self._session, _sample(traced), row.vector_id, layers=[row.cell.layer], allow_foreign=True
            )
        except SteercacheError as error:
            self._troubles[f"Patches along {row.name} cannot be coloured: {error.message}."] = None
            return None, None
        return maps.maps[0], maps.frame


def _sample(row: Mapping[str, Any]) -> PictureSample:
    names = ("run_id", "sample_idx", "sample_id", "dataset", "ordinal", "question", "answer", "image_digest")
    return PictureSample(**{name: row[name] for name in names})


def _said(answer: Answer) -> str | None:
    if answer.status == "failed":
        return answer.error
    return answer.parsed if answer.raw is None else answer.raw
