"""What the model reads of an example with pictures: every placeholder replaced by its run of image tokens."""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.ExifTags
import PIL.Image
import torch

from steercache.core.examples import Example, ImageRef
from steercache.core.excerpts import first_line_of
from steercache.core.ids import digest_bytes
from steercache.data.pixels import upright_rgb
from steercache.models.load import TORCH_DTYPES
from steercache.models.spec import TokenizerBundle
from steercache.trace.patches import Picture
from steercache.trace.template import MARK, RenderedTurn, TemplateError, apply_template, bos_before, own_start

KNOWN_LAYOUTS = 1024  # combinations of picture sizes whose layout is kept: some kilobytes each
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_PNG_SAYS_MORE = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # where a PNG keeps how it is turned


class ImageError(Exception):
    """A picture cannot be read, or the prompt and its pictures do not go together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """Where a picture's tokens stand: characters of the expanded text, and of the text that people see."""

    start: int
    end: int
    shown_start: int
    shown_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """`expanded` is tokenized; `shown` has one placeholder per picture, and `start` is where the example's own text begins.
    `clips` are its videos (`videos.Clip`), `times` the milliseconds of each sound at which its tokens begin.

    `template_date` is the date that the chat template saw; None where it did not look at the clock.
    """

    shown: str
    start: int
    expanded: str
    add_special: bool
    inserts: tuple[Insert, ...] = ()
    pictures: tuple[Picture, ...] = field(default=(), repr=False)
    times: tuple[npt.NDArray[np.int32], ...] = field(default=(), repr=False)
    clips: tuple[Any, ...] = field(default=(), repr=False)
    image_digests: tuple[str, ...] = ()
    template_date: str | None = None

    @classmethod
    def of(cls, example: Example, bundle: TokenizerBundle, *, shown: str, expanded: str, **made: Any) -> "Prompt":
        """A prompt with its completion behind it. The tokenizer adds its special tokens, unless a chat template wrote BOS."""
        bos = bundle.tokenizer.bos_token
        return cls(
            shown=shown + example.completion,
            expanded=expanded + example.completion,
            add_special=not (example.chat and bos and shown.startswith(bos)),
            **made,
        )


def expand(example: Example, bundle: TokenizerBundle, *, decode: bool = True) -> Prompt:
    """What the processor makes of one example. It is run once per combination of picture sizes: where image tokens go and how
    many they are depends on nothing else. Without `decode`, pictures of sizes met before are not decoded.

    Raises:
        ImageError: a picture is broken, or placeholders and pictures differ in number.
        TemplateError: the chat template or the processor changes the text.
    """
    processor = bundle.processor
    if processor is None:
        raise ImageError(f"model {bundle.spec.name} reads no pictures")
    raw = [ref.load() for ref in example.images]
    turn = _with_placeholders(example, bundle, example.text)
    text = turn.text
    blank = [PIL.Image.new("RGB", (1, 1))] * len(raw)  # where the text goes depends on how many pictures there are
    shown = _laid_out(processor, blank, text)
    start = _own_start(example, shown, bundle, blank)
    layout = _layout(example, raw, text, bundle, decode=decode)
    replacements = [picture.replacement for picture in layout.pictures]
    expanded, inserts = splice(shown, layout.placeholder, replacements, shared_mark=bundle.family.shared_mark)
    return Prompt.of(
        example,
        bundle,
        shown=shown,
        start=start,
        expanded=expanded,
        inserts=inserts,
        pictures=layout.pictures,
        image_digests=tuple(digest_bytes(data) for data in raw),
        template_date=turn.template_date,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What stands for pictures of certain sizes, one after the other, each in the place of `placeholder`."""

    placeholder: str
    pictures: tuple[Picture, ...]


def _layout(example: Example, raw: list[bytes], text: str, bundle: TokenizerBundle, *, decode: bool) -> _Layout:
    """The layout of an example's pictures, from the bundle's store or by running the processor.

    Raises:
        ImageError: a picture is broken, or the processor refuses it.
    """
    known = bundle.layouts
    if decode:
        images = [decode_image(data, ref) for data, ref in zip(raw, example.images, strict=True)]
        sizes = tuple(image.size for image in images)
    else:
        sizes = tuple(image_size(data, ref) for data, ref in zip(raw, example.images, strict=True))
        images = []
    found = known.get(sizes)
    if found is None:
        images = images or [decode_image(data, ref) for data, ref in zip(raw, example.images, strict=True)]
        found = _run_processor(bundle, images, text)
        if len(known) >= KNOWN_LAYOUTS:
            known.clear()
        known[sizes] = found
    layout: _Layout = found
    return layout


def _run_processor(bundle: TokenizerBundle, images: list[PIL.Image.Image], text: str) -> _Layout:
    output, replaced = process(bundle.processor, images, text, shared_mark=bundle.family.shared_mark)
    view = _view(output["pixel_values"])
    grids, sizes = _grids(output), output.get("image_sizes")
    shapes = _shapes(output, len(images)) if bundle.family.shared_mark else [()] * len(images)
    return _Layout(
        placeholder=bundle.processor.image_token if bundle.processor else "",
        pictures=tuple(
            Picture(
                replacement=item["replacement"],
                image_token=image_token(bundle),
                view=view,
                grid=(0, 0) if grids is None else grids[i],
                size=(images[i].height, images[i].width) if sizes is None else (int(sizes[i][0]), int(sizes[i][1])),
                shapes=shapes[i],
                processor=bundle.processor,
            )
            for i, item in enumerate(replaced)
        ),
    )


def _grids(output: Mapping[str, Any]) -> list[tuple[int, int]] | None:
    """Lines and columns of patches of every picture, where the processor says them (Qwen), or each patch's place (Gemma 4)."""
    if (grids := output.get("image_grid_thw")) is not None:
        return [(int(grid[1]), int(grid[2])) for grid in grids]
    if (places := output.get("image_position_ids")) is not None:
        ends = [np.asarray(place).reshape(-1, 2).max(axis=0) + 1 for place in places]
        return [(int(height), int(width)) for width, height in ends]
    return None


def _view(pixel_values: Any) -> tuple[int, int]:
    """Height and width of the first view, however deep it lies in lists."""
    value = pixel_values
    while isinstance(value, list | tuple):
        value = value[0]
    height, width = np.shape(value)[-2:]
    return int(height), int(width)


def _shapes(output: Mapping[str, Any], n_pictures: int) -> list[tuple[tuple[int, int], ...]]:
    """Height and width of every view of each picture without what fills it up, from the processor's mask."""
    masks = np.asarray(output["pixel_attention_mask"])[0].astype(bool)  # (views, height, width)
    found = [(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in masks]
    n_views = len(found) // n_pictures
    return [tuple(found[i * n_views : (i + 1) * n_views]) for i in range(n_pictures)]


def image_token(bundle: TokenizerBundle) -> str:
    """The token that is repeated for a picture's patches (Gemma 3's placeholder is another)."""
    token: str = bundle.tokenizer.convert_ids_to_tokens(bundle.config.image_token_id)
    return token


def decode_image(data: bytes, ref: ImageRef) -> PIL.Image.Image:
    """A picture as RGB, turned as its EXIF says, on white where it is transparent. Raises ImageError naming it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(data)) as opened:
                return upright_rgb(opened)
    except (
        OSError,
        ValueError,
        SyntaxError,
        PIL.Image.DecompressionBombError,
        PIL.Image.DecompressionBombWarning,
    ) as error:
        raise ImageError(f"the picture {ref.name} cannot be read: {error}") from error


def image_size(data: bytes, ref: ImageRef) -> tuple[int, int]:
    """Width and height of a picture, turned as its EXIF says, from its header. Raises ImageError naming it."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as opened:
            if (
                opened.format == "TIFF"
            ):  # versions of Pillow differ in whether its size is already that of the turned one
                return decode_image(data, ref).size
            width, height = opened.size
            # Pillow decodes a whole PNG to look for EXIF data behind the pixels.
            may_turn = opened.format != "PNG" or any(mark in data for mark in _PNG_SAYS_MORE)
            turned = may_turn and opened.getexif().get(PIL.ExifTags.Base.Orientation) in QUARTER_TURNS
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"the picture {ref.name} cannot be read: {error}") from error
    return (height, width) if turned else (width, height)


def process(
    processor: Any, images: list[PIL.Image.Image], text: str, *, shared_mark: str | None = None
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """The processor's own output, and what it put in the place of every placeholder.

    The processor of Idefics2 (`shared_mark`) does not say; each picture's views then stand between marks of their own.
    """
    if shared_mark is not None:
        output = _called(processor, images=[images], text=[text])
        views = 5 if processor.image_processor.do_image_splitting else 1
        row = shared_mark + processor.image_token * int(processor.image_seq_len)
        return output, [{"type": "image", "replacement": row * views + shared_mark}] * len(images)
    output = _called(processor, images=[images], text=[text], return_text_replacement_offsets=True)
    replaced = [item for item in output["text_replacement_offsets"][0] if item["type"] == "image"]
    if len(replaced) != len(images):
        raise ImageError(f"{len(images)} pictures, {len(replaced)} places for them in the prompt")
    return output, replaced


def _called(processor: Any, **inputs: Any) -> Mapping[str, Any]:
    """What the processor makes of its inputs. Raises ImageError with its reason."""
    try:
        output: Mapping[str, Any] = processor(**inputs)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise ImageError(f"the processor refuses it: {first_line_of(error)}") from error
    return output


def pixel_inputs(
    images: tuple[ImageRef, ...], bundle: TokenizerBundle, *, digests: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The image tensors of one sample, decoded now: what `EncodedSample.pixels` calls when its batch runs.

    The processor gets the pictures alone: its tokens take as long as a small picture, and the sample has them already.
    `digests` are the pictures' hashes when the sample was encoded.

    Raises:
        ImageError: a picture cannot be read, or its file has other bytes than when the sample was encoded.
    """
    processor: Any = bundle.processor
    decoded = [decode_image(same_bytes(ref, digest), ref) for ref, digest in zip(images, digests, strict=True)]
    # PaliGemma's processor warns without a text, InternVL's refuses
    text = [processor.image_token * len(decoded)] if bundle.family.text_beside_pictures else None
    output = _called(processor, images=[decoded], text=text)
    if bundle.family.tiles_joined:  # Llama 4's processor gives bfloat16, whatever its model computes in
        return {"pixel_values": joined_tiles(output["pixel_values"]).to(TORCH_DTYPES[bundle.spec.dtype])}
    return {name: as_tensor(output[name]) for name in bundle.family.needs if name in output}


def joined_tiles(value: Any) -> torch.Tensor:
    """The tiles of all pictures, one after the other, from one tensor of them for each picture, however deep in lists."""
    if isinstance(value, list | tuple):
        return torch.cat([joined_tiles(item) for item in value])
    return as_tensor(value)


def same_bytes(ref: ImageRef, digest: str) -> bytes:
    """The bytes of a picture. Raises ImageError where they are not those of `digest`."""
    data = ref.load()
    if digest_bytes(data) != digest:
        raise ImageError(f"the picture {ref.name} has changed since its sample was encoded")
    return data


def as_tensor(value: Any) -> torch.Tensor:
    """Nested lists of arrays or tensors as one tensor."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, list | tuple) and value and not isinstance(value[0], int | float):
        return torch.stack([as_tensor(item) for item in value])
    return torch.from_numpy(np.asarray(value))


def _with_placeholders(example: Example, bundle: TokenizerBundle, text: str) -> RenderedTurn:
    n, placeholder = len(example.images), bundle.processor.image_token if bundle.processor else ""
    if example.chat:
        return apply_template(bundle, text, system=example.system, n_images=n)
    written = example.text.count(placeholder)
    if written not in (0, n):
        raise ImageError(f"{n} pictures, {written} times {placeholder} in the text")
    bare = text if written else bundle.family.placeholder.format(image=placeholder) * n + text
    return RenderedTurn(text=bos_before(bare, bundle) + bare, template_date=None)


def _laid_out(processor: Any, images: list[PIL.Image.Image], text: str) -> str:
    """The text as the processor completes it before it puts image tokens in (PaliGemma adds BOS and a line's end)."""
    laid: str = processor.prepare_inputs_layout(images=[images], text=[text])[1][0]
    return laid


def _own_start(example: Example, shown: str, bundle: TokenizerBundle, images: list[PIL.Image.Image]) -> int:
    """Where the example's own text begins in `shown`. Raises TemplateError when it is not there as it was."""
    own = example.text
    if (
        not example.chat and bundle.processor and bundle.processor.image_token in own
    ):  # it says itself where pictures go
        before, found, _ = shown.partition(own)
        if found:
            return len(before)
        raise TemplateError("the prompt's form changes the text, so that characters cannot be followed into it")
    return own_start(
        shown,
        own,
        bundle,
        key=("images", example.chat, example.system, len(images)),
        marked=lambda: _laid_out(bundle.processor, images, _with_placeholders(example, bundle, MARK).text),
    )


def splice(
    shown: str, placeholder: str, replacements: Sequence[str], *, shared_mark: str | None = None
) -> tuple[str, tuple[Insert, ...]]:
    """Put every replacement in, and say where. Raises ImageError when there are more or fewer places than replacements.

    As Idefics2's processor has it, two replacements that touch share one mark, and a blank follows a mark before a word.
    """
    pieces = shown.split(placeholder)
    if len(pieces) != len(replacements) + 1:
        raise ImageError(f"{len(replacements)} pictures, {len(pieces) - 1} places for them in the prompt")
    expanded, inserts, at = pieces[0], [], len(pieces[0])
    for whole, after in zip(replacements, pieces[1:], strict=True):
        replacement, start = whole, len(expanded)
        if shared_mark is not None:
            if expanded.endswith(shared_mark):
                replacement = replacement.removeprefix(shared_mark)
            if after and not after[0].isspace() and after[0] != "<":
                replacement += " "
        shown_end = at + len(placeholder)
        expanded += replacement
        inserts.append(Insert(start=start, end=len(expanded), shown_start=at, shown_end=shown_end))
        expanded, at = expanded + after, shown_end + len(after)
    return expanded, tuple(inserts)
