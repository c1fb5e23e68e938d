"""An example as token ids, with what is known about every token."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import SteercacheError
from steercache.core.examples import TOKEN_KINDS, BoolArray, EncodedSample, Example, IntArray
from steercache.core.excerpts import excerpt
from steercache.data.sounds import SoundError
from steercache.models.spec import TokenizerBundle
from steercache.models.video_settings import video_marks, within
from steercache.trace.patches import PatchError, Picture, locate
from steercache.trace.prompt import ImageError, Insert, Prompt, expand, pixel_inputs
from steercache.trace.sounds import expand_sounds, sound_inputs
from steercache.trace.template import TemplateError, render
from steercache.trace.tokens import Spans, TextTokens, tokens_of
from steercache.trace.tower import locate_patches
from steercache.trace.videos import expand_videos, frame_digests, video_inputs

TEXT, SPECIAL, IMAGE, TEMPLATE, VIDEO, AUDIO = (
    TOKEN_KINDS.index(kind) for kind in ("text", "special", "image", "template", "video", "audio")
)


REMEDIES: Final = {
    "images": "mend the pictures, or the placeholders that the text has for them",
    "sounds": "mend the sounds (`ffmpeg -i FILE -ar RATE -ac 1 FILE.wav` converts them), or the placeholders that the text has"
    " for them",
    "template": "mend the chat template (`chat_template: FILE` in the model manifest names another one), or read the bare text"
    " with `chat: {apply: false}` in the data set's manifest",
    "encoding": "mend the text: every character must be whole",
    "empty": "give the sample text that the tokenizer has tokens for, or leave it out",
    "vocabulary": "use the tokenizer that the model was saved with, or save the model with its embeddings resized to it"
    " (`resize_token_embeddings`)",
    "too_long": "shorten the sample, leave it out, or raise `max_tokens` where that is the limit",
    "anchor_missing": "mend the sentence or its anchor",
    "anchor_first": "reword the sentence, or set `first_position: allow` or `anchors: optional` in the data set's manifest",
}
"""What mends each kind of problem."""


class EncodingProblem(SteercacheError):  # noqa: N818  one of many, gathered by the build
    """An example that cannot be traced; `kind` is a stable word. A build collects those of ALL examples."""

    exit_code = 3

    def __init__(self, kind: str, message: str, *, place: str) -> None:
        super().__init__(message, place=place, hint=REMEDIES[kind])
        self.kind = kind


def encode_example(
    example: Example, bundle: TokenizerBundle, *, max_tokens: int | None = None, decode: bool = True
) -> EncodedSample:
    """Tokenize what the model reads of `example`; without `max_tokens` the model's own limit holds.

    Without `decode`, of pictures only the header is read where that is enough: for examples that were encoded before.

    Raises:
        EncodingProblem: with `kind` one of
            "images": a picture is broken, the model reads none, or the prompt's places and the pictures differ in number;
            "sounds": a sound is broken, of another rate or too long, the model hears none, or it and the prompt do not fit;
            "template": the chat template cannot render it, or changes its text;
            "encoding": it holds half a surrogate pair; "empty": there is no token;
            "too_long": more tokens than allowed (nothing is ever cut off);
            "anchor_missing": an anchor lies outside the text, or on no token;
            "anchor_first": an anchor is the first token, the attention sink, with no BOS before it, and the example refuses it.
    """
    prompt = _prompt(example, bundle, decode=decode)
    tokens = _tokens(prompt, bundle, place=example.place)
    ids, spans = tokens.ids, tokens.spans
    _check_length(ids, spans, _limit(bundle, max_tokens), example, prompt)
    kind = _kinds(tokens, prompt=prompt, bundle=bundle)
    extra = _token_types(kind, tokens, example=example, prompt=prompt, bundle=bundle)
    times = _times(kind, prompt, place=example.place) if prompt.times else None
    places = _places(kind, prompt, bundle, place=example.place)
    spans = _shown(spans, prompt.inserts)
    if example.chat or prompt.inserts:  # PaliGemma's processor ends a prompt with a line's end
        kind[(kind == TEXT) & ~anchor_mask(spans, own_spans(example, prompt))] = TEMPLATE
    _check_anchors(example, prompt, spans)
    anchors = _anchors(example, prompt, spans)
    is_anchor = anchor_mask(spans, anchors)
    return EncodedSample(
        text=prompt.shown,
        input_ids=ids,
        char_start=spans[:, 0],
        char_end=spans[:, 1],
        kind=kind,
        is_anchor=is_anchor,
        is_control=control_mask(kind, spans, is_anchor, labelled=_has_controls(example, anchors)),
        tile=places[:, 0],
        frame=places[:, 3] if prompt.clips else None,
        patch_row=places[:, 1],
        patch_col=places[:, 2],
        text_start=prompt.start,
        anchors=anchors,
        template_date=prompt.template_date,
        image_digests=prompt.image_digests,
        n_videos=len(example.videos),
        n_sounds=len(example.sounds),
        extra=extra,
        pixels=_inputs(example, prompt, bundle),
        time_ms=times,
        patches=partial(_tower_places, prompt, bundle) if example.images or example.videos else None,
    )


def _inputs(example: Example, prompt: Prompt, bundle: TokenizerBundle) -> Callable[[], Mapping[str, Any]] | None:
    """What makes the tensors of an example's pictures, videos or sounds when its batch runs; None where there are none."""
    if example.sounds:
        return partial(sound_inputs, example.sounds, bundle, digests=prompt.image_digests)
    if example.videos:
        return partial(video_inputs, example.videos, bundle, digests=frame_digests(example.videos))
    return partial(pixel_inputs, example.images, bundle, digests=prompt.image_digests) if example.images else None


def patches_of(sample: EncodedSample) -> EncodedSample:
    """The vision tower's rows of a sample as if they were its tokens, all of kind image or video and without characters; of a
    video every pair of frames is a tile.

    There are none where it has no picture. The `sample_id` is not the sample's: nothing of this reaches the model.
    """
    places = sample.patches() if sample.patches is not None else np.empty((0, 3), dtype=np.int32)
    nowhere = np.full(len(places), -1, dtype=np.int32)
    neither = np.zeros(len(places), dtype=bool)
    return EncodedSample(
        text=sample.text,
        input_ids=nowhere,
        char_start=nowhere,
        char_end=nowhere,
        kind=np.full(len(places), VIDEO if sample.n_videos else IMAGE, dtype=np.int8),
        is_anchor=neither,
        is_control=neither,
        tile=places[:, 0],
        patch_row=places[:, 1],
        patch_col=places[:, 2],
    )


def _prompt(example: Example, bundle: TokenizerBundle, *, decode: bool) -> Prompt:
    """The text to tokenize, with or without pictures."""
    try:
        if example.sounds:
            return expand_sounds(example, bundle)
        if example.videos:
            return expand_videos(example, bundle, decode=decode)
        if example.images:
            return expand(example, bundle, decode=decode)
        rendered = render(example, bundle)
    except TemplateError as problem:
        raise EncodingProblem("template", str(problem), place=example.place) from problem
    except ImageError as problem:
        raise EncodingProblem("images", str(problem), place=example.place) from problem
    except SoundError as problem:
        raise EncodingProblem("sounds", str(problem), place=example.place) from problem
    return Prompt(
        shown=rendered.text,
        start=rendered.start,
        expanded=rendered.text,
        add_special=rendered.add_special,
        template_date=rendered.template_date,
    )


def _kinds(tokens: TextTokens, *, prompt: Prompt, bundle: TokenizerBundle) -> npt.NDArray[np.int8]:
    """Kind of every token, shape (t,). All that comes with a picture and is no image token is special."""
    kind = np.where(tokens.special, SPECIAL, TEXT).astype(np.int8)
    first_char = tokens.spans[:, 0]
    for insert in prompt.inserts:
        kind[(first_char >= insert.start) & (first_char < insert.end)] = SPECIAL
    if bundle.family.modality == "image":
        kind[tokens.ids == bundle.config.image_token_id] = IMAGE
    if bundle.family.audio is not None:
        kind[tokens.ids == bundle.config.audio_token_id] = AUDIO
    if bundle.family.video is not None:
        kind[tokens.ids == bundle.config.video_token_id] = VIDEO
    if (marks := video_marks(bundle.family, bundle.config)) is not None:
        kind[(kind == IMAGE) & within(tokens.ids, marks)] = VIDEO
    return kind


def _times(kind: npt.NDArray[np.int8], prompt: Prompt, *, place: str) -> npt.NDArray[np.int32]:
    """Milliseconds from a sound's beginning at which each of its tokens begins, shape (t,); -1 for other tokens."""
    times = np.full(len(kind), -1, dtype=np.int32)
    found = np.concatenate(prompt.times)
    if len(found) != (kind == AUDIO).sum():
        message = f"audio tokens and sounds do not go together: {(kind == AUDIO).sum()} tokens, {len(found)} stretches"
        raise EncodingProblem("sounds", message, place=place)
    times[kind == AUDIO] = found
    return times


def _token_types(
    kind: npt.NDArray[np.int8], tokens: TextTokens, *, example: Example, prompt: Prompt, bundle: TokenizerBundle
) -> dict[str, IntArray]:
    """What the forward wants per token beside its id."""
    family, spans = bundle.family, tokens.spans
    if family.token_types is None:
        return {}
    name, rule = family.token_types
    if rule == "marks":
        marks = bundle.tokenizer.convert_tokens_to_ids(list(family.marks))
        return {name: ((kind == IMAGE) | np.isin(tokens.ids, marks)).astype(np.int32)}
    if rule == "image":
        types = np.zeros(len(kind), dtype=np.int32)
        for number, one in enumerate((IMAGE, VIDEO, AUDIO), start=1):
            types[kind == one] = number
        return {name: types}
    # Without a picture nothing is a prefix: the text is read as its backbone reads it.
    prefix = len(prompt.expanded) - len(example.completion) if example.images else 0
    return {name: (spans[:, 0] >= prefix).astype(np.int32) if prefix else np.ones(len(kind), dtype=np.int32)}


def _places(
    kind: npt.NDArray[np.int8], prompt: Prompt, bundle: TokenizerBundle, *, place: str
) -> npt.NDArray[np.int32]:
    """Tile, row, column and frame of every token, shape (t, 4); -1 where it is no patch, or no video's. Tiles count on from
    picture to picture; of a video or a sound the tile is its number."""
    places = np.full((len(kind), 4), -1, dtype=np.int32)
    if prompt.times:  # the number of the sound; how many tokens there are, `_times` has looked at
        places[kind == AUDIO, 0] = np.repeat(np.arange(len(prompt.times)), [len(one) for one in prompt.times])
    if not np.isin(kind, (IMAGE, VIDEO)).any() and not prompt.pictures and not prompt.clips:
        return places
    try:
        places[kind == IMAGE, :3] = _counted_on([locate(bundle.family.patches or "", p) for p in prompt.pictures])
        places[kind == VIDEO] = _of_videos([clip.places() for clip in prompt.clips])
    except (PatchError, ValueError) as problem:
        message = f"image tokens and pictures do not go together: {problem}"
        raise EncodingProblem("images", message, place=place) from problem
    return places


def _of_videos(parts: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    """Tile, row, column and frame of the tokens of several videos, from frame, row and column of each one's."""
    found = [np.empty((0, 4), dtype=np.int32)]
    for number, part in enumerate(parts):
        found.append(np.column_stack([np.full(len(part), number, dtype=np.int32), part[:, [1, 2, 0]]]))
    return np.concatenate(found)


def _tower_places(prompt: Prompt, bundle: TokenizerBundle) -> npt.NDArray[np.int32]:
    """Tile, row and column of the vision tower's rows, shape (n, 3). Tiles count on from picture to picture; every pair of a
    video's frames is one."""
    shown: list[Picture] = list(prompt.pictures)
    for clip in prompt.clips:
        view = Picture(replacement="", image_token="-", grid=clip.grid[1:], processor=bundle.processor)
        shown += [view] * clip.grid[0]
    return _counted_on([locate_patches(bundle.family.patches or "", one, bundle.config) for one in shown])


def _counted_on(parts: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    """Places of several pictures as one array, each picture's tiles numbered after those before it."""
    found, first = [np.empty((0, 3), dtype=np.int32)], 0
    for part in parts:
        found.append(part + np.array([first, 0, 0], dtype=np.int32))
        first += int(part[:, 0].max(initial=-1)) + 1
    return np.concatenate(found)


def _shown(spans: Spans, inserts: Sequence[Insert]) -> Spans:
    """Spans of the expanded text as spans of the one that people see; -1 for what came with a picture."""
    shown = spans.copy()
    for insert in inserts:
        after = spans[:, 0] >= insert.end
        grown = (insert.end - insert.start) - (insert.shown_end - insert.shown_start)
        shown[after] -= grown
        shown[(spans[:, 0] >= insert.start) & ~after] = -1
    return shown


def anchor_mask(spans: Spans, anchors: Sequence[tuple[int, int]]) -> BoolArray:
    """Tokens of which some character lies inside an anchor; `spans` has shape (t, 2), -1 where a token has no characters."""
    mask: BoolArray = np.zeros(len(spans), dtype=bool)
    for start, end in anchors:
        mask |= (spans[:, 0] >= 0) & (spans[:, 0] < end) & (spans[:, 1] > start)
    return mask


def control_mask(kind: npt.NDArray[np.int8], spans: Spans, is_anchor: BoolArray, *, labelled: bool) -> BoolArray:
    """The other text tokens with characters of a sample whose tokens have roles (`labelled`), without position 0 (the attention
    sink, BOS or not)."""
    mask: BoolArray = (kind == TEXT) & (spans[:, 0] >= 0) & ~is_anchor & labelled
    mask[:1] = False
    return mask


def _has_controls(example: Example, anchors: Sequence[tuple[int, int]]) -> bool:
    return bool(anchors) if example.labels.controls is None else example.labels.controls


def own_spans(example: Example, prompt: Prompt) -> tuple[tuple[int, int], ...]:
    """Character spans of the example's own text and its completion in the shown text; some templates trim the text."""
    start, own, end = prompt.start, example.text, len(prompt.shown)
    if prompt.shown[start : start + len(own)] == own:
        text = (start, start + len(own))
    else:
        text = (start + len(own) - len(own.lstrip()), start + len(own.rstrip()))
    return text, (end - len(example.completion), end)


def _anchors(example: Example, prompt: Prompt, spans: Spans) -> tuple[tuple[int, int], ...]:
    """Anchor spans in the shown text; what lies on the first token is cut off where the example leaves that out."""
    anchors = shifted(example.labels.anchors, prompt.start)
    if example.first_position != "leave_out" or spans[0, 0] < 0:
        return anchors
    begins = [(max(start, int(spans[0, 1])) if end > spans[0, 0] else start, end) for start, end in anchors]
    return tuple((start, end) for start, end in begins if start < end)


def shifted(anchors: Sequence[tuple[int, int]], start: int) -> tuple[tuple[int, int], ...]:
    """Spans of an example's own text as spans of the text that the model reads."""
    return tuple((begin + start, end + start) for begin, end in anchors)


def _tokens(prompt: Prompt, bundle: TokenizerBundle, *, place: str) -> TextTokens:
    """The tokens of what the model reads. Raises EncodingProblem where there are none."""
    try:
        prompt.expanded.encode()
    except UnicodeEncodeError:
        raise EncodingProblem("encoding", "the text holds half a surrogate pair", place=place) from None
    tokens = tokens_of(prompt.expanded, bundle, add_special=prompt.add_special)
    if not len(tokens.ids):
        raise EncodingProblem("empty", "the text has no tokens", place=place)
    _check_vocabulary(tokens.ids, bundle, place=place)
    return tokens


def _check_vocabulary(ids: IntArray, bundle: TokenizerBundle, *, place: str) -> None:
    """A tokenizer with tokens that the model has no embedding for would end in an index error inside the model."""
    n_rows = bundle.spec.vocab_size
    if int(ids.max()) < n_rows:
        return
    replaced = {getattr(bundle.config, name, None) for name in ("image_token_id", "image_token_index")}
    beyond = [i for i in dict.fromkeys(ids[ids >= n_rows].tolist()) if i not in replaced]  # pictures stand there
    if beyond:
        named = ", ".join(f"{bundle.tokenizer.convert_ids_to_tokens(i)!r} ({i})" for i in beyond[:3])
        message = f"the tokenizer gives tokens that the model's {n_rows} embeddings do not have: {named}"
        raise EncodingProblem("vocabulary", message, place=place)


def _limit(bundle: TokenizerBundle, max_tokens: int | None) -> int | None:
    own = getattr(bundle.config.get_text_config(), "max_position_embeddings", None)
    limits = [n for n in (own, max_tokens) if n is not None]
    return min(limits) if limits else None


def _check_length(ids: IntArray, spans: Spans, limit: int | None, example: Example, prompt: Prompt) -> None:
    if limit is None or len(ids) <= limit:
        return
    anchored = anchor_mask(spans, shifted(example.labels.anchors, prompt.start))
    lost = "; an anchor lies beyond" if anchored[limit:].any() else ""
    message = f"{len(ids)} tokens, {limit} are allowed{lost}"
    raise EncodingProblem("too_long", message, place=example.place)


def _check_anchors(example: Example, prompt: Prompt, spans: Spans) -> None:
    for start, end in example.labels.anchors:
        inside = 0 <= start < end <= len(example.text)
        if not inside or not anchor_mask(spans, shifted([(start, end)], prompt.start)).any():
            where = f"characters {start} to {end} of {len(example.text)}"
            raise EncodingProblem("anchor_missing", f"no token holds the anchor at {where}", place=example.place)
    if example.first_position == "refuse" and anchor_mask(spans[:1], shifted(example.labels.anchors, prompt.start))[0]:
        word = prompt.shown[spans[0, 0] : spans[0, 1]]
        raise EncodingProblem(
            "anchor_first",
            f"the anchor {excerpt(word)} is the very first token and no BOS stands before it: its activations are the sink's",
            place=example.place,
        )
