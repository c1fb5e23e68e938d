"""What a view shows of a picture, read back from the processors' own output: a picture whose colours are its coordinates."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import transformers as tf
from pydantic import TypeAdapter

from steercache.cache.documents import RunModel, run_model
from steercache.core.frame import ViewFrame
from steercache.core.ids import canonical_json
from steercache.models.families import family_of
from steercache.models.load import load_bundle
from steercache.models.spec import TokenizerBundle
from steercache.trace.frame import frame_of
from tests.models.tiny import manifest_of
from tests.models.tiny_images import write_tiny_images

SIDE = 32
AS_IS = {"do_normalize": False, "do_rescale": False}
FIXED = {"height": SIDE, "width": SIDE}
LLAVA: dict[str, Any] = {"size": {"shortest_edge": SIDE}, "crop_size": FIXED}

PROCESSORS = {
    "LLaVA-1.5, ends cut off": ("llava", tf.CLIPImageProcessorPil(**LLAVA, **AS_IS)),
    "CLIP, a smaller crop": (
        "llava",
        tf.CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=FIXED, **AS_IS),
    ),
    "LLaVA, filled up": ("llava", tf.LlavaImageProcessorPil(do_pad=True, **LLAVA, **AS_IS)),
    "LLaVA, not filled up": ("llava", tf.LlavaImageProcessorPil(do_pad=False, **LLAVA, **AS_IS)),
    "PaliGemma": ("paligemma", tf.SiglipImageProcessorPil(size=FIXED, **AS_IS)),
    "Gemma 3": ("gemma3", tf.Gemma3ImageProcessorPil(size=FIXED, **AS_IS)),
}


def bundle_of(family: str, image_processor: Any) -> TokenizerBundle:
    processor = SimpleNamespace(image_processor=image_processor)
    return TokenizerBundle(
        tokenizer=None, processor=processor, config=None, family=family_of({"model_type": family}), spec=None
    )  # type: ignore[arg-type]


def coordinates(width: int, height: int) -> PIL.Image.Image:
    """Red is the place across, green the place down, both from 0 to 250; blue says that there is picture."""
    x = (np.arange(width) + 0.5) / width * 250
    y = (np.arange(height) + 0.5) / height * 250
    pixels = np.stack([*np.broadcast_arrays(x[None, :], y[:, None]), np.full((height, width), 255.0)], axis=-1)
    return PIL.Image.fromarray(pixels.round().astype(np.uint8))


@pytest.mark.parametrize("size", [(160, 80), (80, 200), (120, 120)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_frame_is_where_the_processor_took_its_pixels_from(name: str, size: tuple[int, int]) -> None:
    family, processor = PROCESSORS[name]
    frame = frame_of(bundle_of(family, processor))
    left, top, right, bottom = (0.0, 0.0, 1.0, 1.0) if frame is None else frame.box(*size)
    (view,) = np.asarray(processor(coordinates(*size), return_tensors="np")["pixel_values"], dtype=float)
    assert view.shape[-2:] == (SIDE, SIDE)
    middle = (np.arange(SIDE) + 0.5) / SIDE
    x, y = np.meshgrid(left + middle * (right - left), top + middle * (bottom - top))
    inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
    near_edge = 2 * max(right - left, bottom - top) / SIDE  # resampling mixes a border into the pixels beside it
    clear = (x > near_edge) & (x < 1 - near_edge) & (y > near_edge) & (y < 1 - near_edge)
    assert clear.sum() > SIDE
    np.testing.assert_allclose(view[0][clear] / 250, x[clear], atol=0.02)
    np.testing.assert_allclose(view[1][clear] / 250, y[clear], atol=0.02)
    assert inside.all() == (name != "LLaVA, filled up" or size[0] == size[1])
    far_out = (x < -near_edge) | (x > 1 + near_edge) | (y < -near_edge) | (y > 1 + near_edge)
    assert (view[2][far_out] < 200).all()  # a border is no picture


def test_models_that_see_all_of_a_picture_have_no_frame() -> None:
    assert frame_of(bundle_of("paligemma", PROCESSORS["PaliGemma"][1])) is None
    assert frame_of(bundle_of("idefics3", tf.Idefics3ImageProcessorPil())) is None  # its `do_pad` fills up with tiles
    assert frame_of(bundle_of("llava", PROCESSORS["CLIP, a smaller crop"][1])) == ViewFrame(edge="shortest", share=0.8)


def test_a_run_keeps_the_frame_of_its_model(tmp_path: Path) -> None:
    folder = write_tiny_images("llava", tmp_path / "llava")
    model = run_model(load_bundle(manifest_of(folder), cache_dir=tmp_path / "cache"))
    assert model.frame == ViewFrame(edge="shortest", share=1.0)
    assert TypeAdapter(RunModel).validate_json(canonical_json(asdict(model))) == model
