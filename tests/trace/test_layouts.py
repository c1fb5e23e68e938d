"""Places on pictures of any size: as many as the processor's tokens, cut as its own functions cut, at published settings."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

from steercache.models.tokenizers import pixtral_processor, stills_of
from steercache.trace.patches import PatchError, Picture, locate
from tests.models.tiny_images import MEAN, train_tokenizer

SIZES = st.tuples(
    st.integers(64, 3000), st.integers(64, 3000)
)  # height, width; of narrower ones LLaVA-NeXT keeps no line


def laid_out(layout: str, replacement: str, token: str, **fields: Any) -> np.ndarray:
    """Places of a picture whose tokens are these."""
    picture = Picture(replacement=replacement, image_token=token, **fields)
    places = locate(layout, picture)
    on_patches = places[places[:, 1] >= 0]
    assert len(np.unique(on_patches, axis=0)) == len(on_patches)
    return places


@pytest.fixture(scope="module")
def llava_next() -> Any:
    """llava-v1.6-mistral-7b: views of 336 pixels in patches of 14, on five canvases."""
    images = tf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_pad=True, **MEAN
    )
    return tf.LlavaNextProcessor(
        images,
        train_tokenizer("llava_next"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def next_places(processor: Any, height: int, width: int) -> np.ndarray:
    reported = {"image_sizes": [(height, width)], "pixel_values": [np.zeros((5, 3, 336, 336), dtype=np.float32)]}
    text = processor.replace_image_token(reported, 0)
    return laid_out("anyres", text, "<image>", view=(336, 336), size=(height, width), processor=processor)


@given(size=SIZES)
def test_llava_next_has_a_place_for_every_token_that_its_processor_counts(
    llava_next: Any, size: tuple[int, int]
) -> None:
    places = next_places(llava_next, *size)
    assert (places[:576] == np.stack([np.zeros(576), *np.divmod(np.arange(576), 24)], axis=1)).all()
    large = places[576:]
    n_rows, n_cols = large[:, 1:].max(axis=0) + 1
    assert len(large) == n_rows * (n_cols + 1)
    assert (large[:, 1].reshape(n_rows, n_cols + 1)[:, -1] == -1).all()  # the end of each line


@pytest.mark.parametrize(
    ("size", "lines"),
    [
        ((672, 672), (48, 48)),
        ((336, 336), (24, 24)),  # on a canvas of two views
        ((480, 640), (36, 48)),
        ((1080, 1920), (28, 48)),  # 27 lines are on the picture; padding is taken off in pairs
        ((300, 900), (24, 72)),
    ],
)
def test_lines_of_llava_nexts_large_view_counted_by_hand(
    llava_next: Any, size: tuple[int, int], lines: tuple[int, int]
) -> None:
    places = next_places(llava_next, *size)
    assert tuple(places[576:, 1:].max(axis=0) + 1) == lines
    assert len(places) == 576 + lines[0] * (lines[1] + 1)


@given(size=SIZES, most=st.integers(2, 12))
def test_tiles_of_internvl_and_aya_vision_are_cut_as_their_image_processor_cuts(
    size: tuple[int, int], most: int
) -> None:
    view = (448, 448)
    columns, rows = get_optimal_tiled_canvas(size, view, 1, most)
    n_views = columns * rows + (columns * rows > 1)
    places = laid_out(
        "crops", "<i>" * 4 * n_views, "<i>", view=view, size=size, processor=SimpleNamespace(image_seq_length=4)
    )
    if n_views == 1:
        assert places.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
        return
    tiles, whole = places[:-4], places[-4:]
    assert tuple(tiles[:, 1:].max(axis=0) + 1) == (2 * rows, 2 * columns)
    assert (tiles[:, 0] == tiles[:, 1] // 2 * columns + tiles[:, 2] // 2).all()  # row by row
    assert whole.tolist() == [[n_views - 1, row, col] for row in (0, 1) for col in (0, 1)]


def test_whole_prompts_of_internvl_and_aya_vision_have_their_published_numbers_of_tokens() -> None:
    images = tf.GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, min_patches=1, max_patches=12, **MEAN)
    internvl = stills_of(tf.InternVLProcessor)(images, train_tokenizer("internvl"), image_seq_length=256)
    aya = tf.AyaVisionProcessor(images, train_tokenizer("aya_vision"), img_size=364, patch_size=14, downsample_factor=2)
    for n_views, size, grid in ((13, (1344, 1792), (3, 4)), (4, (600, 200), (3, 1)), (1, (448, 448), (1, 1))):
        text = internvl.replace_image_token({"num_patches": [n_views]}, 0)
        places = laid_out("crops", text, "<IMG_CONTEXT>", view=(448, 448), size=size, processor=internvl)
        assert len(places) == 256 * n_views
        assert tuple(places[: 256 * (grid[0] * grid[1]), 1:].max(axis=0) + 1) == (16 * grid[0], 16 * grid[1])
        text = aya.replace_image_token({"num_patches": [n_views]}, 0)
        places = laid_out("crops", text, "<|IMG_PATCH|>", view=(364, 364), size=size, processor=aya)
        assert len(places) == 169 * n_views


@settings(max_examples=20)
@given(size=SIZES)
@pytest.mark.parametrize(("patch", "merge", "longest"), [(16, 1, 1024), (14, 2, 1540)], ids=["pixtral", "mistral3"])
def test_pixtral_and_mistral_3_have_a_line_for_every_row_of_squares(
    patch: int, merge: int, longest: int, size: tuple[int, int]
) -> None:
    side = patch * merge
    height, width = get_resize_output_image_size(np.zeros((*size, 3)), (longest, longest), (side, side))
    reported = {"image_sizes": [(height, width)]}
    processor = pixtral_processor()
    text = processor.replace_image_token(
        SimpleNamespace(
            patch_size=patch,
            spatial_merge_size=merge,
            image_token="[IMG]",
            image_break_token="[B]",
            image_end_token="[E]",
        ),
        reported,
        0,
    )
    places = laid_out("lines", text, "[IMG]", size=(height, width), processor=None)
    assert places.tolist() == [[0, row, col] for row in range(height // side) for col in range(width // side)]
    assert len(places) <= (longest // side) ** 2


def test_lines_of_several_lengths_are_no_picture() -> None:
    with pytest.raises(PatchError, match="lines of 1 to 2 image tokens"):
        laid_out("lines", "[IMG][IMG][B][IMG][E]", "[IMG]", processor=None)


def test_tokens_of_idefics2_read_a_whole_view_and_have_no_place_in_it() -> None:
    mark = "<fake_token_around_image>"
    places = laid_out("resampled", (mark + "<image>" * 64) * 5 + mark, "<image>", processor=None)
    assert places[:, 0].tolist() == [view for view in range(5) for _ in range(64)]
    assert (places[:, 1:] == -1).all()
