"""Image tokens of whole prompts under the published settings, counted from the picture's size alone.

The models are random and narrow; what decides the number of tokens (views, patches, canvases) has its published size.
"""

from itertools import groupby, product
from math import isqrt
from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from steercache.core.examples import TOKEN_KINDS, EncodedSample
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.models.tokenizers import stills_of
from steercache.trace.batches import pad_batch
from steercache.trace.capture import capture
from steercache.trace.encode import encode_example
from tests.models.tiny import manifest_of
from tests.models.tiny_images import LLAMA, MEAN, VISION, chat_template, picture, save_random, train_tokenizer
from tests.trace.test_images import example

IMAGE = TOKEN_KINDS.index("image")
TILE, EDGE, PER_TILE = 364, 4 * 364, 169  # Idefics3-8B-Llama3: (364 / 14)^2 patches, shuffled 2 x 2
VIEW, SIDE, MOST = 384, 27, 9  # llava-onevision-qwen2-7b-ov: 384 // 14 patches a side; anyres_max_9
CANVASES = list(product(range(1, 7), repeat=2))  # views down and across


def idefics3_8b(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.Idefics3ImageProcessorPil(
        size={"longest_edge": EDGE}, max_image_size={"longest_edge": TILE}, do_image_splitting=True, **MEAN
    )
    processor = tf.Idefics3Processor(images, tokenizer, image_seq_len=PER_TILE, chat_template=chat_template("idefics3"))
    config = tf.Idefics3Config(
        vision_config=VISION | {"image_size": TILE, "patch_size": 14},
        text_config=LLAMA | {"model_type": "llama", "max_position_embeddings": 131_072},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return processor, config


def onevision_7b(tokenizer: Any) -> tuple[Any, Any]:
    canvases = [[VIEW * down, VIEW * across] for down, across in CANVASES]
    images = tf.LlavaOnevisionImageProcessorPil(
        size={"height": VIEW, "width": VIEW}, image_grid_pinpoints=canvases, **MEAN
    )
    processor = stills_of(tf.LlavaOnevisionProcessor)(
        images,
        tokenizer,
        video_processor=None,
        num_image_tokens=SIDE**2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=f"anyres_max_{MOST}",
        chat_template=chat_template("llava_onevision"),
    )
    config = tf.LlavaOnevisionConfig(
        vision_config=VISION
        | {"model_type": "siglip_vision_model", "image_size": VIEW, "patch_size": 14, "vision_use_head": False},
        text_config=LLAMA | {"model_type": "qwen2", "max_position_embeddings": 32_768},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=canvases,
        vision_feature_layer=-1,
        vision_aspect_ratio=f"anyres_max_{MOST}",
    )
    return processor, config


def idefics3_tiles(width: int, height: int) -> tuple[int, int]:
    """Lines and columns of tiles: the longer side becomes 1456 pixels, the shorter one follows in whole, even pixels, and
    both are cut every 364 pixels."""

    def cuts(side: int) -> int:
        scaled = side * EDGE // max(width, height)
        return -((scaled + scaled % 2) // -TILE)

    return cuts(height), cuts(width)


def onevision_lines(width: int, height: int) -> tuple[int, int]:
    """Lines and columns of the large view: on the canvas that keeps most pixels of the picture (of several the smallest),
    without the padding, which is the same on both sides; when there are too many, fewer in the same proportion."""

    def kept(canvas: tuple[int, int]) -> tuple[int, int]:
        down, across = (VIEW * n for n in canvas)
        high = min(down, height * across // width)  # the picture fills the canvas in one direction
        return min(high * min(across, width * down // height), width * height), -down * across

    down, across = max(CANVASES, key=kept)
    lines, columns = SIDE * down, SIDE * across
    if width * lines > height * columns:  # padding above and below
        lines -= (lines - columns * height // width) // 2 * 2
    else:
        columns -= (columns - lines * width // height) // 2 * 2
    most = MOST * SIDE**2
    if 100 * lines * columns > 121 * most:  # a tenth too many on a side is let through
        return isqrt(lines * most // columns), isqrt(columns * most // lines)
    return lines, columns


@pytest.fixture(scope="module")
def idefics3(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(idefics3_8b(plain_tokenizer("idefics3")), tmp_path_factory.mktemp("idefics3"))


@pytest.fixture(scope="module")
def onevision(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(onevision_7b(plain_tokenizer("llava_onevision")), tmp_path_factory.mktemp("onevision"))


def plain_tokenizer(family: str) -> Any:
    tokenizer = train_tokenizer(family)
    tokenizer.chat_template = None
    return tokenizer


def load(parts: tuple[Any, Any], folder: Path) -> LoadedModel:
    save_random(*parts, folder)
    return load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu")


def asked(loaded: LoadedModel, *sizes: tuple[int, int]) -> EncodedSample:
    """A question in a chat, about pictures of these widths and heights."""
    pictures = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    return encode_example(example("What is on the table?", *pictures, chat=True), loaded.bundle)


def runs(loaded: LoadedModel, sample: EncodedSample) -> list[tuple[str, int]]:
    """Every unbroken run of image tokens, with the token before it."""
    names = loaded.tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
    found, before = [], ""
    for is_image, run in groupby(zip(sample.kind == IMAGE, names, strict=True), key=lambda pair: bool(pair[0])):
        tokens = [name for _, name in run]
        if is_image:
            found.append((before, len(tokens)))
        before = tokens[-1]
    return found


def rows_of_picture(loaded: LoadedModel, sample: EncodedSample) -> int:
    """How many rows the model itself puts in the place of image tokens; it refuses a prompt with more or fewer."""
    batch = pad_batch([sample], padding_side="right", pad_id=0)
    rows = capture(loaded, batch, sites=["connector_out"], layers=[])["connector_out"][0][0]
    return int((~rows.isnan().all(dim=1)).sum())


def tags_of(lines: int, columns: int) -> list[str]:
    return [f"<row_{i}_col_{j}>" for i in range(1, lines + 1) for j in range(1, columns + 1)] + ["<global-img>"]


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        ((640, 480), (3, 4)),
        ((480, 640), (4, 3)),
        ((1456, 1456), (4, 4)),
        ((100, 100), (4, 4)),  # small pictures are enlarged
        ((1024, 683), (3, 4)),
        ((1000, 250), (1, 4)),
        ((1000, 251), (2, 4)),  # 365 pixels high, made 366: two lines
        ((333, 500), (4, 3)),
        ((2000, 100), (1, 4)),
    ],
)
def test_a_whole_idefics3_prompt_has_169_tokens_for_every_tile_and_for_the_whole(
    size: tuple[int, int], tiles: tuple[int, int], idefics3: LoadedModel
) -> None:
    assert idefics3_tiles(*size) == tiles
    sample = asked(idefics3, size)
    assert runs(idefics3, sample) == [(tag, PER_TILE) for tag in tags_of(*tiles)]
    n = PER_TILE * (tiles[0] * tiles[1] + 1)
    assert (sample.kind == IMAGE).sum() == n == rows_of_picture(idefics3, sample)


def test_the_largest_idefics3_picture_is_17_tiles_and_two_pictures_are_counted_one_by_one(
    idefics3: LoadedModel,
) -> None:
    assert (asked(idefics3, (2000, 2000)).kind == IMAGE).sum() == 17 * 169 == 2873
    both = asked(idefics3, (640, 480), (300, 900))
    tags = [*tags_of(*idefics3_tiles(640, 480)), *tags_of(*idefics3_tiles(300, 900))]
    assert runs(idefics3, both) == [(tag, PER_TILE) for tag in tags]
    assert rows_of_picture(idefics3, both) == PER_TILE * len(tags)


@pytest.mark.parametrize(
    ("size", "lines"),
    [
        ((384, 384), (27, 27)),
        ((100, 100), (27, 27)),
        ((640, 480), (40, 54)),
        ((480, 640), (54, 40)),
        ((1000, 250), (21, 81)),
        ((3000, 200), (11, 162)),
        ((1920, 1080), (60, 108)),  # 75 x 135 were too many
        ((2304, 2304), (81, 81)),
    ],
)
def test_a_whole_onevision_prompt_has_the_small_view_and_lines_of_the_large_one_each_with_its_end(
    size: tuple[int, int], lines: tuple[int, int], onevision: LoadedModel
) -> None:
    assert onevision_lines(*size) == lines
    sample = asked(onevision, size)
    n = SIDE**2 + lines[0] * (lines[1] + 1)
    assert [length for _, length in runs(onevision, sample)] == [n]
    assert (sample.kind == IMAGE).sum() == n == rows_of_picture(onevision, sample)


def test_several_onevision_pictures_are_one_small_view_each(onevision: LoadedModel) -> None:
    sample = asked(onevision, (640, 480), (1920, 1080))
    assert (sample.kind == IMAGE).sum() == 2 * (729 + 1) == rows_of_picture(onevision, sample)
