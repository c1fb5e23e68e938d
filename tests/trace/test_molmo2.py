"""Molmo2: where its image tokens and its tower's rows lie, by its processor's own strings and functions, and its prompts.

The processor as a whole needs torchvision, for its image processor; what lays tokens out does not. With torchvision 0.28
tokens, types, pixels, values and places of pictures of several sizes were compared by hand.
"""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from transformers.models.molmo2.image_processing_molmo2 import arange_for_pooling, compute_crop_geometry

from steercache.core.examples import Example
from steercache.trace.batches import collate_pixels
from steercache.trace.encode import encode_example
from steercache.trace.patches import PatchError, Picture, locate
from steercache.trace.tower import locate_patches, tower_width
from tests.models.tiny import train_tokenizer
from tests.models.tiny_images import CHAT
from tests.steering.small import small_model

SIDE, MARGINS, POOL = 6, (1, 1), (2, 2)  # patches of a crop, what crops share at their ends, and what makes a token
IMAGES = SimpleNamespace(overlap_margins=MARGINS, pooling_size=POOL, patch_size=8)
CONFIG: Any = SimpleNamespace(
    vision_config=SimpleNamespace(image_size=[48, 48], patch_size=8, model_type="molmo2_vision")
)
SIZES = [(48, 48), (80, 50), (30, 90), (100, 200)]


def laid_out(height: int, width: int, *, lines: bool = False) -> tuple[Picture, tuple[int, int], tuple[int, int]]:
    """A picture as its processor writes it, how many crops it is cut into, and the canvas in patches."""
    geometry = compute_crop_geometry(
        height, width, max_crops=4, overlap_margins=list(MARGINS), crop_size=8 * SIDE, patch_size=8
    )
    tiling, canvas = geometry[:2], (geometry[2] // 8, geometry[3] // 8)
    _, *large = arange_for_pooling(torch.arange(canvas[0] * canvas[1]).reshape(*canvas), *POOL)
    made: Any = SimpleNamespace(
        image_use_col_tokens=True, use_single_crop_col_tokens=None if lines else False, use_single_crop_start_token=True
    )
    said = tf.Molmo2Processor.replace_image_token(made, {"image_grids": [[3, 3, *large]]}, 0)
    processor = SimpleNamespace(image_processor=IMAGES)
    return Picture(replacement=said, image_token="<im_patch>", processor=processor), tiling, canvas


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tokens_are_the_small_picture_and_then_the_large_one_line_by_line(height: int, width: int, lines: bool) -> None:
    picture, _, canvas = laid_out(height, width, lines=lines)
    expected = [[0, row, col] for row in range(3) for col in range(3)]
    expected += [[1, row, col] for row in range(-(-canvas[0] // 2)) for col in range(-(-canvas[1] // 2))]
    assert locate("overlapping", picture).tolist() == expected


def test_tokens_that_make_no_lines_are_refused() -> None:
    picture, _, _ = laid_out(80, 50)
    broken = dataclasses.replace(picture, replacement=picture.replacement.replace("<im_col>", "", 1))
    with pytest.raises(PatchError):
        locate("overlapping", broken)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_rows_of_the_tower_are_the_small_picture_and_crops_that_share_their_margins(height: int, width: int) -> None:
    """Each crop is a window of the canvas: so its own patches, counted over the canvas, are that window's."""
    picture, tiling, canvas = laid_out(height, width)
    counted = torch.arange(canvas[0] * canvas[1]).reshape(1, 1, *canvas)
    window = SIDE - sum(MARGINS)
    crops = counted.unfold(2, SIDE, window).unfold(3, SIDE, window).reshape(-1, SIDE * SIDE)
    assert len(crops) == tiling[0] * tiling[1]
    places = locate_patches("overlapping", picture, CONFIG)
    assert places[: SIDE * SIDE].tolist() == [[0, row, col] for row in range(SIDE) for col in range(SIDE)]
    large = places[SIDE * SIDE :].reshape(len(crops), SIDE * SIDE, 3)
    assert (large[:, :, 0] == np.arange(1, len(crops) + 1)[:, None]).all()
    assert (large[:, :, 1] * canvas[1] + large[:, :, 2] == crops.numpy()).all()


def test_pictures_of_several_samples_are_pooled_from_their_own_patches() -> None:
    def part(n_crops: int, which: list[list[int]]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.zeros(n_crops, 4, 3), "image_token_pooling": torch.tensor(which)}

    joined = collate_pixels([part(2, [[0, 7]]), part(1, [[3, -1], [0, 1]]), part(1, [[2, 2]])])
    assert joined["image_token_pooling"].tolist() == [[0, 7], [11, -1], [8, 9], [14, 14]]
    assert joined["pixel_values"].shape == (4, 4, 3)


def test_a_prompt_begins_with_bos_or_with_eos_where_the_tokenizer_has_none() -> None:
    """As the processor's `__call__` writes it, whether a chat template does or not."""
    bundle, tokenizer = small_model("molmo2", image_patch_id=399).bundle, train_tokenizer(bos=False)
    spec = dataclasses.replace(bundle.spec, vocab_size=400)
    tokenizer.chat_template = CHAT
    for bos, first in (("<s>", "<s>"), (None, "</s>")):
        tokenizer.bos_token = bos
        asked = dataclasses.replace(bundle, tokenizer=tokenizer, special_ids=(1, 2), spec=spec, forms={})
        for text in ("The cat", f"{first}The cat"):
            sample = encode_example(Example(dataset="d", place="d:1", text=text), asked)
            names = tokenizer.convert_ids_to_tokens(sample.input_ids.tolist())
            assert names[0] == first
            assert names.count(first) == 1
            assert sample.text[sample.text_start :] == text
        chat = encode_example(Example(dataset="d", place="d:1", text="The cat", chat=True), asked)
        assert chat.text.startswith(f"{first}<|user|>")
        assert chat.text[chat.text_start :].startswith("The cat")


def test_the_tower_hands_on_as_many_blocks_side_by_side_as_the_adapter_reads() -> None:
    assert tower_width(tf.Molmo2Config(), 1152) == 2 * 1152
    assert small_model("molmo2").spec.family == "molmo2"


@torch.inference_mode()
def test_a_dot_moves_the_token_whose_place_it_is() -> None:
    model = small_model("molmo2").model
    for name, parameter in model.named_parameters():  # every patch sees itself only
        if "vision_tower" in name and any(part in name for part in ("o_proj", "fc2")):
            parameter.data.zero_()
    indices, *grid = arange_for_pooling(
        torch.arange(16).reshape(4, 4), *POOL
    )  # four crops' worth of patches as one view

    def rows(pixels: torch.Tensor) -> torch.Tensor:
        found = model.model.get_image_features(pixels, indices, torch.tensor([[*grid, 0, 0]]))
        return torch.cat(found.pooler_output)

    plain = torch.zeros(4, 4, 3 * 8 * 8)
    for patch in (0, 3, 6, 9, 15):
        dotted = plain.clone()
        dotted.view(16, -1)[patch] = 1
        moved = (rows(dotted) - rows(plain)).norm(dim=1)
        assert int(moved.argmax()) == (patch // 4 // 2) * 2 + patch % 4 // 2
