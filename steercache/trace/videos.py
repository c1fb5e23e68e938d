"""What the model reads of an example with videos: every placeholder replaced by the tokens of its frames, each pair of frames
after its time. A video is a list of pictures; their pixels are resized by Pillow, as those of still pictures are.

Source: Qwen3-VL (arXiv 2511.21631), Qwen2-VL (2409.12191), Qwen2.5-VL (2502.13923), GLM-4.5V (2507.01006), and their processors
in transformers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch

from steercache.core.examples import Example, VideoRef
from steercache.core.ids import canonical_json, digest_bytes
from steercache.models.spec import TokenizerBundle
from steercache.models.video_settings import VideoSettings
from steercache.trace.patches import grid_of
from steercache.trace.prompt import (
    ImageError,
    Prompt,
    decode_image,
    image_size,
    image_token,
    same_bytes,
    splice,
)
from steercache.trace.template import MARK, RenderedTurn, apply_template, own_start

Places = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One video of a prompt: pairs of frames, lines and columns of patches in each; `merge` patches a side are one token."""

    grid: tuple[int, int, int]
    merge: int
    per_patch: int
    replacement: str = field(repr=False)

    def places(self) -> Places:
        """First frame, row and column of every token, in their order, shape (n, 3)."""
        n, height, width = self.grid
        places = np.concatenate([grid_of(i, height // self.merge, width // self.merge) for i in range(n)])
        places[:, 0] *= self.per_patch
        return places


def expand_videos(example: Example, bundle: TokenizerBundle, *, decode: bool = True) -> Prompt:
    """What the processor makes of one example with videos. Without `decode`, of frames only the header is read.

    Raises:
        ImageError: a frame is broken or of another size than the first, the model sees no videos, or placeholders and videos
            differ in number.
        TemplateError: the chat template changes the text.
    """
    settings = _settings(bundle)
    if example.images:
        raise ImageError("a prompt with pictures and videos is not read: show the pictures as frames, or one of both")
    raw = [[frame.load() for frame in video.frames] for video in example.videos]
    clips = tuple(_clip(video, data, bundle, decode=decode) for video, data in zip(example.videos, raw, strict=True))
    turn, mark = _with_placeholders(example, bundle, example.text), video_token(bundle)
    start = own_start(
        turn.text,
        example.text,
        bundle,
        key=("videos", example.chat, example.system, len(clips)),
        marked=lambda: _with_placeholders(example, bundle, MARK).text,
    )
    expanded, inserts = splice(turn.text, mark, [clip.replacement for clip in clips])
    return Prompt.of(
        example,
        bundle,
        shown=turn.text,
        start=start,
        expanded=expanded,
        inserts=inserts,
        clips=clips,
        image_digests=tuple(_digest(video, data, settings) for video, data in zip(example.videos, raw, strict=True)),
        template_date=turn.template_date,
    )


def video_inputs(
    videos: tuple[VideoRef, ...], bundle: TokenizerBundle, *, digests: Sequence[Sequence[str]]
) -> dict[str, torch.Tensor]:
    """The tensors of one sample's videos, made now; `digests` are those of their frames when the sample was encoded.

    Raises:
        ImageError: a frame cannot be read, or its file has other bytes than then.
    """
    settings, pixels, grids = _settings(bundle), [], []
    for video, known in zip(videos, digests, strict=True):
        data = [same_bytes(frame, one) for frame, one in zip(video.frames, known, strict=True)]
        frames = [decode_image(one, frame) for one, frame in zip(data, video.frames, strict=True)]
        patches, grid = patches_of_frames(frames, settings)
        pixels.append(torch.from_numpy(patches))
        grids.append(grid)
    inputs = {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": torch.tensor(grids, device="cpu")}
    if bundle.family.frames == "clocked":
        each = [settings.per_patch / video.fps for video in videos]
        inputs["second_per_grid_ts"] = torch.tensor(each, device="cpu")
    return inputs


def frame_digests(videos: Sequence[VideoRef]) -> tuple[tuple[str, ...], ...]:
    """Hashes of the files of every frame of every video."""
    return tuple(tuple(digest_bytes(frame.load()) for frame in video.frames) for video in videos)


def patches_of_frames(
    frames: Sequence[PIL.Image.Image], settings: VideoSettings
) -> tuple[npt.NDArray[np.float32], tuple[int, int, int]]:
    """Pixels of the patches (n, channels x frames x side x side), square of neighbours after square, and the grid."""
    height, width = settings.frame_size(len(frames), frames[0].height, frames[0].width)
    filter_ = PIL.Image.Resampling(settings.resample)
    resized = [frame.resize((width, height), filter_) for frame in frames]
    resized += resized[-1:] * (-len(frames) % settings.per_patch)
    values = np.stack([np.asarray(frame, dtype=np.float32).transpose(2, 0, 1) for frame in resized])
    mean, std = (np.array(x, dtype=np.float32)[:, None, None] for x in (settings.mean, settings.std))
    values = (values * np.float32(settings.scale) - mean) / std
    n, side, merge, per = len(values), settings.patch, settings.merge, settings.per_patch
    down, across = height // side, width // side
    shape = (n // per, per, values.shape[1], down // merge, merge, side, across // merge, merge, side)
    patches = values.reshape(shape).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return np.ascontiguousarray(patches.reshape(n // per * down * across, -1)), (n // per, down, across)


def video_token(bundle: TokenizerBundle) -> str:
    """The token that is repeated for a video's patches."""
    token: str = bundle.tokenizer.convert_ids_to_tokens(bundle.config.video_token_id)
    return token


def _settings(bundle: TokenizerBundle) -> VideoSettings:
    if bundle.family.video is None:
        raise ImageError(f"model {bundle.spec.name} reads no videos here")
    if bundle.video is None:
        raise ImageError(f"the checkpoint of {bundle.spec.name} does not say how it reads videos")
    return bundle.video


def _clip(video: VideoRef, raw: Sequence[bytes], bundle: TokenizerBundle, *, decode: bool) -> Clip:
    """Of a video's sizes alone. Raises ImageError naming the frame that is broken or differs."""
    settings, sizes = _settings(bundle), []
    for data, frame in zip(raw, video.frames, strict=True):
        sizes.append(decode_image(data, frame).size if decode else image_size(data, frame))
        if sizes[-1] != sizes[0]:
            (w, h), (first_w, first_h) = sizes[-1], sizes[0]
            raise ImageError(f"the frame {frame.name} has {w} x {h} pixels, the first {first_w} x {first_h}")
    width, height = sizes[0] if sizes else (0, 0)
    try:
        high, wide = settings.frame_size(len(sizes), height, width)
    except ValueError as error:
        raise ImageError(f"the video {video.name} cannot be read: {error}") from error
    n = -(-len(sizes) // settings.per_patch)
    grid = (n, high // settings.patch, wide // settings.patch)
    per_frame = grid[1] * grid[2] // settings.merge**2
    replacement = "".join(_shown(time, per_frame, bundle) for time in _times(video, settings))
    return Clip(grid=grid, merge=settings.merge, per_patch=settings.per_patch, replacement=replacement)


def _shown(times: tuple[float, float], n_tokens: int, bundle: TokenizerBundle) -> str:
    """What stands for one pair of frames, whose first and last are at these seconds."""
    processor: Any = bundle.processor
    frames, (first, last) = bundle.family.frames, times
    if frames in ("joined", "clocked"):
        return video_token(bundle) * n_tokens
    if frames == "timed":
        start, end = processor.vision_start_token, processor.vision_end_token
        return f"<{(first + last) / 2:.1f} seconds>{start}{video_token(bundle) * n_tokens}{end}"
    said = f"{int(first)}" if frames == "numbered" else f"{first:.1f} seconds"
    return f"<|begin_of_image|>{image_token(bundle) * n_tokens}<|end_of_image|>{said}"


def _times(video: VideoRef, settings: VideoSettings) -> list[tuple[float, float]]:
    """Seconds of the first and the last frame of every pair; the last frame of all stands in where one lacks."""
    at = [i / video.fps for i in range(len(video.frames))]
    at += at[-1:] * (-len(at) % settings.per_patch)
    return [(at[i], at[i + settings.per_patch - 1]) for i in range(0, len(at), settings.per_patch)]


def _digest(video: VideoRef, raw: Sequence[bytes], settings: VideoSettings) -> str:
    """Hash of what reaches the model: frames, their rate, and how they are prepared."""
    said = canonical_json({"fps": float(video.fps), "settings": asdict(settings)})
    return digest_bytes(b"video", said, *(digest_bytes(data).encode() for data in raw))


def _with_placeholders(example: Example, bundle: TokenizerBundle, text: str) -> RenderedTurn:
    n, mark = len(example.videos), video_token(bundle)
    if example.chat:
        return apply_template(bundle, text, system=example.system, n_videos=n)
    written = example.text.count(mark)
    if written not in (0, n):
        raise ImageError(f"{n} videos, {written} times {mark} in the text")
    bare = text if written else (bundle.family.video or "").format(video=mark) * n + text
    return RenderedTurn(text=bare, template_date=None)
