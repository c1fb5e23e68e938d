"""What a data set yields and what a tokenizer makes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from steercache.core.ids import digest_bytes

IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

TOKEN_KINDS = ("text", "special", "image", "template", "video", "audio")
"""`kind` of a token; an index into this tuple is stored in EncodedSample.kind.

Text is the example's own: what its data set says, or in a chat the user's turn and the completion. Template is what a chat
template puts around it: the system prompt, role words, the generation prompt. Special tokens mark structure. Image, video and
audio tokens stand for patches of pictures, for patches of a video's frames, and for stretches of time of a sound.
"""
FirstPosition = Literal["refuse", "allow", "leave_out"]
"""What an anchor on a sample's first token, the attention sink, is: an error, an anchor like any other, or no anchor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """A picture that is read when it is needed. `load` returns the file's bytes; `name` is for messages."""

    name: str
    load: Callable[[], bytes] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundRef:
    """A sound that is read when it is needed. `load` returns the bytes of a WAV file; `name` is for messages."""

    name: str
    load: Callable[[], bytes] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRef:
    """A video as its frames, pictures of one size that are read when they are needed; `fps` of them show a second."""

    name: str
    frames: tuple[ImageRef, ...]
    fps: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels of an input. Never part of a run's identity: mending a label re-indexes, it never re-traces.

    `anchors` are half-open character spans in `Example.text`. `polarity` is +1 / -1 in a contrastive pair. With `controls`, the
    text tokens beside the anchors are controls even where there is no anchor; None: only where there is one.
    """

    concept: str | None = None
    split: str | None = None
    question: str | None = None
    choices: tuple[str, ...] = ()
    answer: str | None = None
    group_id: str | None = None
    pair_id: str | None = None
    polarity: int | None = None
    anchors: tuple[tuple[int, int], ...] = ()
    controls: bool | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One input of a data set: what reaches the model, and the labels about it.

    With `chat`, `text` is the user's turn (after `system`, if any) rendered through the tokenizer's chat template with the
    generation prompt, and `completion` is appended to it; without, the model reads `text + completion`.
    """

    dataset: str
    place: str  # "concepts.jsonl:12": for messages
    text: str
    system: str | None = None
    completion: str = ""
    chat: bool = False
    images: tuple[ImageRef, ...] = ()
    sounds: tuple[SoundRef, ...] = ()
    videos: tuple[VideoRef, ...] = ()
    labels: Labels = Labels()
    first_position: FirstPosition = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSample:
    """One input as token ids, with what is known about every token; all arrays have shape (t,).

    `char_start`, `char_end` are offsets into `text` (the rendered text), -1 for tokens without characters. `kind` indexes
    TOKEN_KINDS. `tile`, `patch_row`, `patch_col` are -1 for tokens that are no patches; of a video `tile` is its number in the
    prompt and `frame` the first frame that the patch is made of (None: the prompt has no video). Of a sound `tile` is its
    number in the prompt and `time_ms` the milliseconds from its beginning at which the token begins (None: the prompt has no
    sound). `image_digests` are those of the pictures, then of the `n_videos` videos, then of the `n_sounds` sounds. `extra`
    holds what else the forward needs per token (`token_type_ids`), shape (t,) each. `text_start` is where the example's own
    text begins in `text` (a chat template puts characters before it). `anchors` are the half-open spans in `text` that make
    tokens anchors. `template_date` is the date (ISO 8601) that the chat template saw; None where it did not look at the clock.
    `pixels` makes the image tensors when the batch runs, `patches` says tile, row and column of every row of the vision
    tower's output, shape (n, 3), in the tower's order. Flat: the arrays are the columns of the table `tokens`.
    """

    text: str
    input_ids: IntArray
    char_start: IntArray
    char_end: IntArray
    kind: npt.NDArray[np.int8]
    is_anchor: BoolArray
    is_control: BoolArray
    tile: IntArray
    patch_row: IntArray
    patch_col: IntArray
    frame: IntArray | None = None
    time_ms: IntArray | None = None
    text_start: int = 0
    anchors: tuple[tuple[int, int], ...] = ()
    template_date: str | None = None
    image_digests: tuple[str, ...] = ()
    n_videos: int = 0
    n_sounds: int = 0
    extra: Mapping[str, IntArray] = field(default_factory=dict)
    pixels: Callable[[], Mapping[str, Any]] | None = field(default=None, repr=False, compare=False)
    patches: Callable[[], IntArray] | None = field(default=None, repr=False, compare=False)

    @property
    def n_tokens(self) -> int:
        """Tokens without padding."""
        return len(self.input_ids)

    @property
    def frames(self) -> IntArray:
        """`frame` (t,), -1 for tokens that are no patch of a video."""
        return np.full(self.n_tokens, -1, dtype=np.int32) if self.frame is None else self.frame

    @property
    def times_ms(self) -> IntArray:
        """`time_ms` (t,), -1 for tokens that are no stretch of a sound."""
        return np.full(self.n_tokens, -1, dtype=np.int32) if self.time_ms is None else self.time_ms

    @property
    def sample_id(self) -> str:
        """Hash of what reaches the model: token ids, per-token extras and image bytes."""
        return sample_id_of(self.input_ids, self.extra, self.image_digests)


def sample_id_of(input_ids: IntArray, extra: Mapping[str, IntArray], image_digests: Sequence[str]) -> str:
    """The id of an input by its token ids (t,), what else the forward reads per token (t,) each, and its pictures' digests."""
    extras = [part for name in sorted(extra) for part in (name.encode(), extra[name].tobytes())]
    return digest_bytes(input_ids.tobytes(), *extras, *(d.encode() for d in image_digests))
