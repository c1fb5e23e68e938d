"""Rows of the vision tower: as many as it hands on, each where the picture says; and layouts that are kept by picture size."""

import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
import torch

from steercache.core.examples import EncodedSample, ImageRef
from steercache.core.ids import digest_bytes
from steercache.models.load import load_bundle, load_model
from steercache.models.spec import LoadedModel
from steercache.trace.batches import pad_batch
from steercache.trace.capture import capture
from steercache.trace.encode import encode_example
from steercache.trace.patches import Picture
from steercache.trace.prompt import ImageError, decode_image, image_size, pixel_inputs
from steercache.trace.tower import locate_patches
from tests.models.tiny import manifest_of
from tests.models.tiny_images import GLM, GRIDS, MAKERS, picture, written
from tests.trace.test_images import blind_tower, dotted, example, plain_inputs, turned_picture

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(tmp_path_factory)


@functools.cache
def blind(folder: Path) -> LoadedModel:
    loaded = load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu", dtype="float32")
    blind_tower(loaded.model)
    return loaded


def tower_rows(loaded: LoadedModel, *refs: ImageRef) -> tuple[EncodedSample, torch.Tensor]:
    """A sample and what its tower hands on, shape (n, d)."""
    sample = encode_example(example("The cat", *refs), loaded.bundle)
    states = capture(loaded, pad_batch([sample], padding_side="right", pad_id=0), sites=["vision_out"], layers=[])
    value = states["vision_out"][0]
    return sample, value.reshape(-1, value.shape[-1])


def places_of(sample: EncodedSample) -> np.ndarray:
    assert sample.patches is not None
    return sample.patches()


def counted_by_hand(family: str, width: int, height: int, inputs: Any) -> int:
    """From the views and grids that the processor reports; a view of 32 x 32 pixels has 4 x 4 patches."""
    if family in GRIDS:
        return int(inputs["image_grid_thw"].prod()) // (4 if family in GLM else 1)
    if family == "gemma4":  # its tower pools patches, so that its rows are the image tokens
        return {(50, 80): 6 * 10, (90, 30): 4 * 14, (32, 32): 8 * 8}[width, height]
    if family == "idefics3":
        return 16 * int(inputs["pixel_values"].shape[1])
    if family == "idefics2":
        shown = inputs["pixel_values"].shape
        return int(shown[1]) * (shown[-2] // 8) * (shown[-1] // 8)
    if family in ("internvl", "aya_vision"):
        return len(inputs["pixel_values"]) * (4 if family == "internvl" else 16)
    if family in ("pixtral", "mistral3"):
        side = 8 if family == "pixtral" else 16
        return -(-height // side) * -(-width // side) * (side // 8) ** 2
    if family in ("llava_onevision", "llava_next"):
        return 16 * (1 + {(50, 80): 4, (90, 30): 3, (32, 32): 1}[width, height])
    return 16


@pytest.mark.parametrize("size", [(50, 80), (90, 30), (32, 32)])
@pytest.mark.parametrize("family", MAKERS)
def test_every_row_that_the_tower_hands_on_has_one_place(
    family: str, size: tuple[int, int], folders: dict[str, Path]
) -> None:
    loaded = blind(folders[family])
    sample, rows = tower_rows(loaded, picture(*size))
    places = places_of(sample)
    asked = example("The cat", picture(*size))
    assert len(places) == len(rows) == counted_by_hand(family, *size, plain_inputs(loaded, asked))
    on_patches = places[places[:, 1] >= 0]
    assert len(np.unique(on_patches, axis=0)) == len(on_patches)
    assert (len(on_patches) < len(places)) == (
        family == "idefics2"
    )  # its quarters are filled up to the size of the whole


@pytest.mark.parametrize("family", MAKERS)
def test_two_pictures_have_the_rows_of_each_one_after_the_other(family: str, folders: dict[str, Path]) -> None:
    loaded = blind(folders[family])
    both, rows = tower_rows(loaded, picture(50, 80), picture(32, 64, seed=1))
    one, rows_of_one = tower_rows(loaded, picture(50, 80))
    places, first = places_of(both), places_of(one)
    assert len(places) == len(rows)
    if family == "llava_onevision":  # of several pictures only small views are read, each padded to a square
        first = first[:16]
    assert (places[: len(first)] == first).all()
    assert (places[len(first) :, 0] > first[:, 0].max()).all()
    if family != "llava_onevision":
        torch.testing.assert_close(rows[: len(first)], rows_of_one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", MAKERS)
def test_a_dot_on_the_picture_moves_the_rows_whose_place_it_is(family: str, folders: dict[str, Path]) -> None:
    loaded = blind(folders[family])
    # LLaVA 1.5 cuts what is not square; OneVision pads what fits no canvas, and these fit one; Idefics2 drops half patches
    sizes = [(96, 96), (64, 32), (32, 64)] if family == "idefics2" else [(96, 96), (96, 32), (32, 96)]
    for size in sizes[:1] if family == "llava" else sizes:
        plain = tower_rows(loaded, dotted(*size, None))[1]
        for dot in [(0.15, 0.15), (0.85, 0.15), (0.4, 0.9), (0.6, 0.4)]:
            sample, rows = tower_rows(loaded, dotted(*size, dot))
            places, change = places_of(sample), (rows - plain).norm(dim=1).numpy()
            small = places[:, 0] == (0 if family in ("llava_onevision", "llava_next") else places[:, 0].max())
            if family == "idefics2":  # its tiles are quarters
                quarter = places[:, 0] == int(dot[0] > 0.5) + 2 * int(dot[1] > 0.5)
                assert not change[~small & ~quarter].any()
            for view in (small, ~small):
                if view.any():
                    n_rows, n_cols = places[view][:, 1:].max(axis=0) + 1
                    _, row, col = places[view][change[view].argmax()]
                    assert abs((col + 0.5) / n_cols - dot[0]) <= 0.5 / n_cols + 0.06, (size, dot)
                    assert abs((row + 0.5) / n_rows - dot[1]) <= 0.5 / n_rows + 0.06, (size, dot)


@pytest.mark.parametrize(("strategy", "first"), [("full", [0, -1, -1]), ("default", [0, 0, 0])])
def test_a_class_token_is_a_row_without_a_place_where_it_is_handed_on(
    strategy: str, first: list[int], folders: dict[str, Path]
) -> None:
    config = load_bundle(manifest_of(folders["llava"]), cache_dir=folders["llava"] / "cache").config
    config.vision_feature_select_strategy = strategy
    two = Picture(replacement="<image><image>.<image>", image_token="<image>", view=(32, 32), processor=None)
    places = locate_patches("square", two, config)
    assert len(places) == 2 * (17 if strategy == "full" else 16)
    assert places[0].tolist() == first
    assert places[len(places) // 2].tolist() == [1, *first[1:]]


@pytest.mark.parametrize("family", MAKERS)
def test_pictures_of_sizes_met_before_are_laid_out_as_if_they_were_new(family: str, folders: dict[str, Path]) -> None:
    fresh = load_bundle(manifest_of(folders[family]), cache_dir=folders[family] / "cache")
    known = load_bundle(manifest_of(folders[family]), cache_dir=folders[family] / "cache")
    sizes = [(50, 80), (90, 30)]
    for width, height in sizes:
        encode_example(example("Another text", picture(width, height, seed=5)), known)
    for chat in (False, True):
        for width, height in sizes:
            asked = example("The cat is on the table", picture(width, height), chat=chat)
            fresh.layouts.clear()
            one, other = encode_example(asked, fresh), encode_example(asked, known, decode=False)
            assert one.sample_id == other.sample_id
            for name in ("text", "char_start", "char_end", "kind", "tile", "patch_row", "patch_col", "is_control"):
                assert np.array_equal(getattr(one, name), getattr(other, name)), name
            assert (places_of(one) == places_of(other)).all()
    assert len(known.layouts) == len(sizes)


def test_a_picture_that_is_known_to_be_whole_is_decoded_once_when_its_batch_runs(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(manifest_of(folders["idefics3"]), cache_dir=folders["idefics3"] / "cache")
    asked = example("The cat", picture(50, 80))
    encode_example(asked, bundle)
    calls: list[str] = []

    def counted(data: bytes, ref: ImageRef) -> Any:
        calls.append(ref.name)
        return decode_image(data, ref)

    monkeypatch.setattr("steercache.trace.prompt.decode_image", counted)
    sample = encode_example(asked, bundle, decode=False)
    assert calls == []
    pad_batch([sample], padding_side="left", pad_id=0)
    assert calls == ["50x80.png"]


def test_the_size_in_the_header_is_that_of_the_picture_as_people_see_it() -> None:
    turned = turned_picture()
    for ref in (picture(50, 80), turned, dataclasses.replace(turned, name="again.jpg")):
        assert image_size(ref.load(), ref) == decode_image(ref.load(), ref).size
    assert image_size(turned.load(), turned) == (32, 96)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_header_says_how_a_picture_is_turned_in_every_form(form: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    stream = io.BytesIO()
    PIL.Image.new("RGB", (96, 32)).save(stream, format=form, exif=exif)
    ref = ImageRef(name=f"turned.{form}", load=stream.getvalue)
    assert image_size(ref.load(), ref) == decode_image(ref.load(), ref).size
    assert image_size(ref.load(), ref) == ((32, 96) if orientation > 4 else (96, 32))


def test_the_size_of_a_png_is_read_without_its_pixels() -> None:
    whole = picture(50, 80).load()
    at = whole.index(b"IDAT") + 4
    torn = whole[:at] + bytes(len(whole) - at)
    ref = ImageRef(name="torn.png", load=lambda: torn)
    assert image_size(torn, ref) == (50, 80)
    with pytest.raises(ImageError, match=r"torn\.png"):
        decode_image(torn, ref)


@pytest.mark.parametrize("family", MAKERS)
def test_pictures_alone_give_the_tensors_that_they_give_in_a_prompt(
    family: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_model(manifest_of(folders[family]), cache_dir=folders[family] / "cache", device="cpu")
    asked = example("The cat", picture(50, 80), picture(90, 30, seed=1))
    plain = plain_inputs(loaded, asked)
    capsys.readouterr()
    found = pixel_inputs(asked.images, loaded.bundle, digests=[digest_bytes(ref.load()) for ref in asked.images])
    assert set(found) == {name for name in plain if name in loaded.family.needs}
    for name, tensor in found.items():
        assert torch.equal(tensor, plain[name]), name
    assert capsys.readouterr() == ("", "")
