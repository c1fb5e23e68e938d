"""Questions of a benchmark, in the wording and form that a model family was trained on, encoded once.

A question keeps one sample id under every wording (the hash of its input under the plain one), so that answers under another
instruction, or another vector, pair with those of the baseline. Rows that cannot be encoded stay in the list, as failed.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

from steercache.benchmarks.scoring import score_answer
from steercache.core.errors import UsageError
from steercache.core.examples import EncodedSample, Example, ImageRef, Labels
from steercache.core.ids import digest
from steercache.core.trials import Target
from steercache.data.benchmarks.questions import INSTRUCTIONS, Benchmark, FailedRow
from steercache.models.spec import TokenizerBundle
from steercache.trace.encode import EncodingProblem, encode_example

Part = Literal["search", "test"]
Progress = Callable[[str, int, int | None], None]

PREFIXES: Final = MappingProxyType({"paligemma": "answer en "})  # what PaliGemma's tasks begin with
ATTEND: Final = MappingProxyType(
    {
        "spatial_relationship": "Pay attention to where things are.",
        "counting": "Pay attention to how many things there are.",
        "attribute": "Pay attention to colours and other attributes.",
        "entity": "Pay attention to what things are.",
        "action": "Pay attention to what is being done.",
        "temporal": "Pay attention to the order in time.",
        "comparison": "Pay attention to how things compare.",
        "negation": "Pay attention to what is not there.",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How questions are put: the canonical instruction of each kind, after the sentence `attend` if there is one."""

    attend: str | None = None

    @property
    def prompt_id(self) -> str:
        """Id of the wording in a cell's identity: "plain", or a digest of the words."""
        return "plain" if self.attend is None else f"attend-{digest(self.attend)[:12]}"

    def put(self, example: Example, bundle: TokenizerBundle) -> Example:
        """The example as the model of `bundle` is to read it."""
        instruction = INSTRUCTIONS[example.labels.meta["kind"]]
        words = instruction if self.attend is None else f"{self.attend} {instruction}"
        text = f"{words}\n{example.labels.meta['prompt']}"
        prefix = PREFIXES.get(bundle.family.name)
        if prefix is not None:
            return replace(example, text=prefix + text)
        has_template = getattr(bundle.processor, "chat_template", None) or bundle.tokenizer.chat_template
        return replace(example, text=text, chat=bool(has_template))


PLAIN: Final = Wording()


def attend_to(concept: str | None, *, pictures: bool = True) -> Wording:
    """The prompting baseline of a concept: asking in words for what the vector is meant to do."""
    otherwise = "Look carefully at the picture." if pictures else "Read the question carefully."
    return Wording(attend=ATTEND.get(concept or "", otherwise))


def default_targets(benchmark: Benchmark) -> tuple[Target, ...]:
    """Which tokens are steered unless the caller says otherwise: those of the pictures, or of the text where there are none."""
    return ("image",) if benchmark.has_pictures else ("text",)


def check_can_ask(benchmark: Benchmark, bundle: TokenizerBundle, targets: Sequence[Target | str] = ()) -> None:
    """Refuse pictures for a text model, and image tokens as a target where no question shows a picture.

    Raises:
        UsageError: either of these.
    """
    reads_pictures = bundle.family.modality == "image"
    if benchmark.has_pictures and not reads_pictures:
        raise UsageError(
            f"{bundle.spec.name} reads no pictures, and {benchmark.name} asks about pictures",
            hint="choose a multimodal model, such as tiny or demo; or questions without pictures",
        )
    unheard = [t for t in targets if t in ("video", "audio")]
    if unheard:
        raise UsageError(
            f"the questions of {benchmark.name} have no {unheard[0]} tokens, so the target {unheard[0]} hits nothing",
            hint="choose the target image, text, both, all or last",
        )
    nowhere = [t for t in targets if t == "image" or (t == "both" and not reads_pictures)]
    if nowhere and not benchmark.has_pictures and benchmark.examples:
        raise UsageError(
            f"the questions of {benchmark.name} have no pictures, so the target {nowhere[0]} has no image tokens",
            hint="choose the target text, all or last",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedQuestion:
    """One row of the set. `encoded` is None if the row cannot be encoded; `error` is the reason. `images` are its pictures."""

    sample_id: str
    place: str
    split: Part
    labels: Labels
    group_id: str
    encoded: EncodedSample | None = field(repr=False)
    error: str | None = None
    images: tuple[ImageRef, ...] = field(default=(), repr=False, compare=False)

    @property
    def kind(self) -> str:
        """How its answer is read: "choice", "count" or "text"."""
        return str(self.labels.meta.get("kind", "choice"))


def pick_rows(benchmark: Benchmark, split: Part, *, n: int | None, orphans: Part) -> tuple[Example | FailedRow, ...]:
    """Rows of one split, failed ones among them; of more than `n`, a choice that a larger `n` only adds to.

    Failed rows of no known split belong to `orphans`.

    Raises:
        UsageError: the split has no row.
    """
    failed = [f for f in benchmark.failures if (f.split or orphans) == split]
    rows: list[Example | FailedRow] = [*benchmark.part(split), *failed]
    if not rows:
        raise UsageError(
            f"{benchmark.name} has no row of the {split} split here", hint="take more rows, or the other split"
        )
    if n is None or n >= len(rows):
        return tuple(rows)
    chosen = sorted(range(len(rows)), key=lambda i: hashlib.sha256(rows[i].place.encode()).digest())[:n]
    return tuple(rows[i] for i in sorted(chosen))


def ask(
    rows: Sequence[Example | FailedRow], bundle: TokenizerBundle, *, split: Part, progress: Progress | None = None
) -> tuple[EncodedQuestion, ...]:
    """Encode rows under the plain wording; a row that cannot be encoded, or that is a duplicate, is failed, with the reason."""
    asked: list[EncodedQuestion] = []
    seen: dict[str, str] = {}
    for i, row in enumerate(rows):
        if progress is not None:
            progress("reading questions", i, len(rows))
        one = _failed(row.place, split, str(row.message)) if isinstance(row, FailedRow) else _ask(row, bundle, split)
        if one.sample_id in seen:
            one = _failed(one.place, split, f"the same question about the same picture as {seen[one.sample_id]}")
        seen[one.sample_id] = one.place
        asked.append(one)
    return tuple(asked)


def reword(
    asked: Sequence[EncodedQuestion], rows: Sequence[Example | FailedRow], wording: Wording, bundle: TokenizerBundle
) -> tuple[EncodedQuestion, ...]:
    """The same questions under another wording, with the ids that they have under the plain one."""
    again: list[EncodedQuestion] = []
    for one, row in zip(asked, rows, strict=True):
        if one.encoded is None or isinstance(row, FailedRow):
            again.append(one)
            continue
        try:
            again.append(replace(one, encoded=encode_example(wording.put(row, bundle), bundle)))
        except EncodingProblem as problem:
            again.append(replace(one, encoded=None, error=problem.message))
    return tuple(again)


def _ask(example: Example, bundle: TokenizerBundle, split: Part) -> EncodedQuestion:
    try:
        encoded = encode_example(PLAIN.put(example, bundle), bundle)
        _check_answer(example.labels)
    except (EncodingProblem, UsageError) as problem:
        return _failed(example.place, split, problem.message, labels=example.labels)
    return EncodedQuestion(
        sample_id=encoded.sample_id,
        place=example.place,
        split=split,
        labels=example.labels,
        group_id=example.labels.group_id or example.place,
        encoded=encoded,
        images=example.images,
    )


def _check_answer(labels: Labels) -> None:
    """Raise UsageError for a right answer that cannot itself be read: the question could never be answered rightly."""
    if labels.answer is not None:
        score_answer(None, kind=labels.meta.get("kind", "choice"), answer=labels.answer, choices=labels.choices)


def _failed(place: str, split: Part, error: str, *, labels: Labels | None = None) -> EncodedQuestion:
    return EncodedQuestion(
        sample_id=digest({"failed row": place}),
        place=place,
        split=split,
        labels=labels or Labels(split=split),
        group_id=place,
        encoded=None,
        error=error,
    )
