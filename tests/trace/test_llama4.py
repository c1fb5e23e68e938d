"""Where Llama 4's image tokens lie: its processor's own strings, and a dot that moves the token whose place it is.

The processor as a whole needs torchvision, for its image processor; what lays tokens out does not.
"""

from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from steercache.trace.patches import PatchError, Picture, locate
from steercache.trace.prompt import joined_tiles
from tests.steering.small import small_model


def laid_out(down: int, across: int, n: int) -> Picture:
    processor: Any = tf.Llama4Processor
    replacement = processor._prompt_split_image(None, (down, across), n)
    return Picture(replacement=replacement, image_token="<|patch|>", processor=None)


@pytest.mark.parametrize(("down", "across"), [(1, 1), (1, 3), (2, 2), (3, 2)])
def test_tokens_count_over_the_whole_picture_and_its_small_view_comes_last(down: int, across: int) -> None:
    side = 3
    expected = []
    tiles = [(i, j) for i in range(down) for j in range(across)] if down * across > 1 else []
    for tile, (i, j) in enumerate(tiles):
        expected += [(tile, i * side + row, j * side + col) for row in range(side) for col in range(side)]
    expected += [(len(tiles), row, col) for row in range(side) for col in range(side)]
    assert locate("tile_lines", laid_out(down, across, side * side)).tolist() == [list(place) for place in expected]


def test_tiles_that_make_no_lines_are_refused() -> None:
    picture = laid_out(2, 2, 4)
    broken = picture.replacement.replace("<|tile_x_separator|>", "", 1)
    with pytest.raises(PatchError):
        locate("tile_lines", Picture(replacement=broken, image_token="<|patch|>", processor=None))


def test_tiles_of_pictures_of_several_sizes_lie_along_one_axis() -> None:
    tiles = [torch.randn(n, 3, 8, 8).bfloat16() for n in (5, 1, 3)]
    for given in (tiles, [[one] for one in tiles], torch.cat(tiles)):  # as the processor gives them, or joined
        assert torch.equal(joined_tiles(given), torch.cat(tiles))


@torch.inference_mode()
def test_a_dot_moves_the_token_whose_place_it_is() -> None:
    model = small_model("llama4").model
    for name, parameter in model.named_parameters():  # every patch sees itself only
        if "vision_model.model" in name and any(part in name for part in ("o_proj", "fc2")):
            parameter.data.zero_()
    plain = torch.zeros(1, 3, 16, 16)
    places = locate("tile_lines", laid_out(1, 1, 4))

    def rows(pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.multi_modal_projector(model.vision_model(pixels).last_hidden_state)[0]
        return found

    for y, x in ((2, 2), (2, 13), (13, 2), (13, 13)):
        dotted = plain.clone()
        dotted[..., y - 1 : y + 2, x - 1 : x + 2] = 1
        moved = (rows(dotted) - rows(plain)).norm(dim=1).numpy()
        assert places[int(moved.argmax()), 1:].tolist() == [y // 8, x // 8]
        assert np.sort(moved)[-1] > 10 * np.sort(moved)[-2]
