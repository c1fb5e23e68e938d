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

_FILES: Final = (("processor_config.json", "video_processor"), ("video_preprocessor_config.json", None))


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSettings:
    """Of Qwen3-VL's video processor; the values where a file has none are those of its class in transformers.

    `fewest` and `most` are pixels of all frames together (its `size`). `mean` and `std` belong to values in [0, 1].
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
    most_tokens: int = 768  # of a frame, where that is capped

    def frame_size(self, n_frames: int, height: int, width: int) -> tuple[int, int]:
        """Height and width of every frame, multiples of a token's, the pixels of all frames between the limits.

        Raises:
            ValueError: there are fewer frames than one patch is made of, or they are too narrow.
        """
        if n_frames < self.per_patch:
            raise ValueError(f"{n_frames} frames, and one patch is made of {self.per_patch}")
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

    def _most(self, n_frames: int) -> int:
        if not self.capped:
            return self.most
        of_a_frame = min(self.most_tokens * (self.patch * self.merge) ** 2, self.most // n_frames)
        return max(of_a_frame, int(self.fewest * 1.05)) * n_frames


def read_video_settings(folder: Path) -> VideoSettings | None:
    """The settings in a checkpoint's folder; None where it has none. Raises ValueError, OSError where a file is broken."""
    for name, inside in _FILES:
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            found = found if inside is None else found.get(inside)
            if isinstance(found, Mapping):
                return _settings(found)
    return None


def _settings(found: Mapping[str, Any]) -> VideoSettings:
    plain, size = VideoSettings(), found.get("size") or {}
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
    )
