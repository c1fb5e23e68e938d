"""How a checkpoint wants the frames of a video: sizes and colours, from its own files.

transformers' video processors need torchvision. Frames that are pictures need no decoder of videos, so that what they become
is computed here (`trace.videos`) from these settings, the same on every machine.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.models.family import Family

_FILES: Final = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", None),
    ("preprocessor_config.json", None),  # of pictures, which Qwen2-VL reads videos by, too
)
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)  # of CLIP
_STD: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSettings:
    """Of a video processor; the values are those of Qwen3-VL's class in transformers, where a file has none.

    `fewest` and `most` are pixels of all frames together (its `size`), with `per_frame` of each. `mean` and `std` belong to
    values in [0, 1].
    """

    patch: int = 16
    per_patch: int = 2  # frames that one patch is made of
    merge: int = 2  # squares of so many patches a side are one token
    fewest: int = 128 * 32 * 32
    most: int = 768 * 32 * 32
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: int = 3  # Pillow's number of bicubic
    capped: bool = False
    most_tokens: int = 768  # of a frame, or with `per_frame` of all, where that is capped
    per_frame: bool = False

    def frame_size(self, n_frames: int, height: int, width: int) -> tuple[int, int]:
        """Height and width of every frame, multiples of a token's, the pixels of all frames between the limits.

        Raises:
            ValueError: there are fewer frames than one patch is made of, or they are too narrow.
        """
        if n_frames < (1 if self.per_frame else self.per_patch):
            raise ValueError(f"{n_frames} frames, and one patch is made of {self.per_patch}")
        if self.per_frame:
            return self._size_of_one(n_frames, height, width)
        side = self.patch * self.merge
        if min(height, width) < side:
            scale = max(side / height, side / width)
            height, width = int(height * scale), int(width * scale)
        if max(height, width) > 200 * min(height, width):
            raise ValueError(f"frames of {width} x {height} pixels are too narrow")
        most = self._most(n_frames)
        high, wide = (round(n / side) * side for n in (height, width))
        n_pixels = round(n_frames / self.per_patch) * self.per_patch * high * wide
        if n_pixels > most:
            shrink = math.sqrt(n_frames * height * width / most)
            return tuple(max(side, math.floor(n / shrink / side) * side) for n in (height, width))  # type: ignore[return-value]
        if n_pixels < self.fewest:
            grow = math.sqrt(self.fewest / (n_frames * height * width))
            return tuple(math.ceil(n * grow / side) * side for n in (height, width))  # type: ignore[return-value]
        return high, wide

    def _size_of_one(self, n_frames: int, height: int, width: int) -> tuple[int, int]:
        """Qwen2-VL: as of a picture."""
        if max(height, width) > 200 * min(height, width):
            raise ValueError(f"frames of {width} x {height} pixels are too narrow")
        side, most = self.patch * self.merge, self.most
        if self.capped:
            share = int(self.most_tokens * side * side * 0.9) * self.per_patch // n_frames
            most = max(min(most, share), int(self.fewest * 1.05))
        high, wide = (round(n / side) * side for n in (height, width))
        if high * wide > most:
            shrink = math.sqrt(height * width / most)
            return tuple(max(side, math.floor(n / shrink / side) * side) for n in (height, width))  # type: ignore[return-value]
        if high * wide < self.fewest:
            grow = math.sqrt(self.fewest / (height * width))
            return tuple(math.ceil(n * grow / side) * side for n in (height, width))  # type: ignore[return-value]
        return high, wide

    def _most(self, n_frames: int) -> int:
        if not self.capped:
            return self.most
        of_a_frame = min(self.most_tokens * (self.patch * self.merge) ** 2, self.most // n_frames)
        return max(of_a_frame, int(self.fewest * 1.05)) * n_frames


_QWEN2: Final = VideoSettings(
    patch=14, fewest=128 * 28 * 28, most=768 * 28 * 28, most_tokens=128_000, per_frame=True, mean=_MEAN, std=_STD
)
_GLM: Final = VideoSettings(patch=14, fewest=112 * 112, most=28 * 28 * 2 * 30_000, mean=_MEAN, std=_STD)
FRAMES: Final = {
    "timed": VideoSettings(),  # Qwen3-VL: every pair of frames between marks, after its time
    "joined": _QWEN2,  # Qwen2-VL: all in one run
    "clocked": _QWEN2,  # Qwen2.5-VL: in one run, with positions that count seconds
    "numbered": _GLM,  # GLM-4.1V and 4.5V: as so many pictures, each before its second
    "seconds": _GLM,  # GLM-4.6V: the same, each before its time
}
"""How the frames of a video stand in a prompt, and what each class takes where a file says nothing."""


def video_marks(family: Family, config: Any) -> tuple[int, int] | None:
    """Ids of the marks around a video of which every frame is made of image tokens (GLM-4V); None for other models."""
    if family.frames not in ("numbered", "seconds") or family.video is None:
        return None
    return int(config.video_start_token_id), int(config.video_end_token_id)


def within(ids: npt.NDArray[np.int32], marks: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Tokens (t,) between the two marks."""
    inside: npt.NDArray[np.bool_] = np.cumsum(ids == marks[0]) > np.cumsum(ids == marks[1])
    return inside


def read_video_settings(folder: Path, frames: str) -> VideoSettings | None:
    """The settings in a checkpoint's folder; None where it has none. Raises ValueError, OSError where a file is broken."""
    for name, inside in _FILES:
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            found = found if inside is None else found.get(inside)
            if isinstance(found, Mapping):
                return _settings(found, FRAMES[frames])
    return None


def _settings(found: Mapping[str, Any], plain: VideoSettings) -> VideoSettings:
    size = dict(found.get("size") or {})
    for name, older in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
        if plain.per_frame and found.get(older) is not None:
            size[name] = found[older]
    return VideoSettings(
        patch=int(found.get("patch_size", plain.patch)),
        per_patch=int(found.get("temporal_patch_size", plain.per_patch)),
        merge=int(found.get("merge_size", plain.merge)),
        fewest=int(size.get("shortest_edge", plain.fewest)),
        most=int(size.get("longest_edge", plain.most)),
        scale=float(found.get("rescale_factor", plain.scale)),
        mean=tuple(map(float, found.get("image_mean") or plain.mean)),
        std=tuple(map(float, found.get("image_std") or plain.std)),
        resample=int(found.get("resample", plain.resample)),
        capped=bool(found.get("cap_pixels_per_frame")),
        most_tokens=int(found.get("max_video_tokens", plain.most_tokens)),
        per_frame=plain.per_frame,
    )
