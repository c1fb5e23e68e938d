"""Pictures that are no plain RGB reach the model as the family's own processor shows them, opened and untouched by us."""

import dataclasses
import io
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from steercache.core.examples import Example, ImageRef
from steercache.core.ids import digest_bytes
from steercache.data.pixels import upright_rgb
from steercache.models.load import load_bundle
from steercache.models.spec import TokenizerBundle
from steercache.trace.encode import EncodingProblem, encode_example
from steercache.trace.prompt import as_tensor, decode_image, pixel_inputs
from tests.models.tiny import manifest_of
from tests.models.tiny_images import MAKERS, Written, written

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SIZE = (50, 80)
RGBA = np.random.default_rng(3).integers(0, 256, size=(*SIZE[::-1], 4), dtype=np.uint8)


def saved(picture: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=form, **options)
    return stream.getvalue()


def palette(**options: Any) -> bytes:
    return saved(PIL.Image.fromarray(RGBA[..., :3]).quantize(16), **options)


def turned() -> bytes:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    return saved(PIL.Image.fromarray(RGBA), exif=exif)


FILES = {
    "RGB": saved(PIL.Image.fromarray(RGBA[..., :3])),
    "RGBA": saved(PIL.Image.fromarray(RGBA)),
    "LA": saved(PIL.Image.fromarray(RGBA).convert("LA")),
    "P": palette(),
    "P with one clear colour": palette(transparency=3),
    "P with an alpha per colour": palette(transparency=bytes(range(0, 256, 16))),
    "RGB with a clear colour": saved(PIL.Image.fromarray(RGBA[..., :3]), transparency=tuple(RGBA[7, 5, :3].tolist())),
    "L with a clear grey": saved(PIL.Image.fromarray(RGBA[..., 0]), transparency=9),
    "1 with a clear black": saved(PIL.Image.fromarray(RGBA[..., 0] > 99), transparency=0),
    "CMYK": saved(PIL.Image.fromarray(RGBA[..., :3]).convert("CMYK"), form="TIFF"),
}
DEEP = {
    "I;16": saved(PIL.Image.fromarray(RGBA[..., 0].astype(np.uint16) * 257)),
    "I": saved(PIL.Image.fromarray(RGBA[..., 0].astype(np.int32) * 70_000), form="TIFF"),
    "F": saved(PIL.Image.fromarray(RGBA[..., 0].astype(np.float32) / 255), form="TIFF"),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenizerBundle]:
    return Bundles(written(tmp_path_factory))


class Bundles(dict[str, TokenizerBundle]):
    """By family, each read when it is first asked for."""

    def __init__(self, folders: Written) -> None:
        super().__init__()
        self._folders = folders

    def __missing__(self, family: str) -> TokenizerBundle:
        folder = self._folders[family]
        self[family] = load_bundle(manifest_of(folder), cache_dir=folder / "cache")
        return self[family]


def ref(data: bytes) -> ImageRef:
    return ImageRef(name="drawn.png", load=lambda: data)


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("family", MAKERS)
def test_the_pixels_are_those_of_the_processor_itself(
    family: str, form: str, bundles: dict[str, TokenizerBundle]
) -> None:
    """A warning of Pillow's would be an error here, as every warning is: the processor's own way gives none."""
    processor: Any = bundles[family].processor
    ours = pixel_inputs((ref(FILES[form]),), bundles[family], digests=[digest_bytes(FILES[form])])
    crops = {"crop_to_patches": True} if family in ("internvl", "aya_vision") else {}  # as these processors ask for it
    theirs = processor.image_processor(images=[[PIL.Image.open(io.BytesIO(FILES[form]))]], **crops)
    assert ours["pixel_values"].numpy().tobytes() == as_tensor(theirs["pixel_values"]).numpy().tobytes()


def test_what_is_clear_is_white_and_not_what_lies_hidden_under_it() -> None:
    hidden = RGBA.copy()
    hidden[..., 3] = 0
    hidden[:40, :, 3] = 255
    seen = np.asarray(decode_image(saved(PIL.Image.fromarray(hidden)), ref(b"")))
    assert (seen[:40] == RGBA[:40, :, :3]).all()
    assert (seen[40:] == 255).all()


def test_a_clear_picture_is_turned_as_it_says() -> None:
    upright = decode_image(FILES["RGBA"], ref(b""))
    assert decode_image(turned(), ref(b"")) == upright.transpose(PIL.Image.Transpose.ROTATE_270)


@pytest.mark.parametrize("mode", DEEP)
def test_grey_that_would_be_clipped_is_named_and_not_traced(mode: str, bundles: dict[str, TokenizerBundle]) -> None:
    opened = PIL.Image.open(io.BytesIO(DEEP[mode]))
    assert opened.mode == mode
    clipped = np.asarray(opened.convert("RGB"))  # which is what the processors do: there is no picture left
    assert len(np.unique(clipped)) <= 2
    asked = Example(dataset="d", place="d.jsonl:3", text="The cat", images=(ref(DEEP[mode]),))
    with pytest.raises(EncodingProblem, match=r"d.jsonl:3: the picture drawn.png .*more than 8 bits \(mode"):
        encode_example(asked, bundles["idefics3"])
    with pytest.raises(ValueError, match="save it with 8 bits"):
        upright_rgb(opened)


def test_a_deep_picture_of_a_size_met_before_is_named_too(bundles: dict[str, TokenizerBundle]) -> None:
    asked = Example(dataset="d", place="d.jsonl:3", text="The cat", images=(ref(FILES["RGB"]),))
    encode_example(asked, bundles["idefics3"])
    with pytest.raises(EncodingProblem, match="more than 8 bits"):
        encode_example(dataclasses.replace(asked, images=(ref(DEEP["I;16"]),)), bundles["idefics3"])
