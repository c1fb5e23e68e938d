"""Steering every multimodal family on its processor's own inputs: exact at the target rows, still everywhere else."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import steercache
from steercache.core.trials import Target
from steercache.models.families import FAMILIES
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from tests.models.tiny import manifest_of
from tests.models.tiny_images import FAMILIES_IN_DTYPES, MAKERS, N_LAYERS, WIDTH, WITHOUT_PROCESSOR, written
from tests.steering.tiny import vector
from tests.trace.test_images import example, picture, plain_inputs

# PaliGemma's processor converts its own tensors in a way that numpy 2 warns of; the tests call it as users do.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

BLOCKS = dict.fromkeys(("idefics2", "idefics3"), "model.text_model.layers")
MIDDLE, LAST = 1, N_LAYERS - 1
LAST_WITH_KEYS = {
    "gemma3n": 1,
    "gemma4": 1,
}  # blocks above read its keys; what they do with an image token reaches no other token


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(tmp_path_factory)


def load(folder: Path, dtype: str = "float32") -> tuple[LoadedModel, Any]:
    """A random model and what its processor makes of two questions about pictures."""
    loaded = load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu", dtype=dtype)
    asked = [example("The cat is on the table", picture(50, 80, seed=i)) for i in range(2)]
    return loaded, plain_inputs(loaded, *asked)


def block_outputs(loaded: LoadedModel, family: str, inputs: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What every block gives, each (b, t, d), and the logits at the last token, (b, vocabulary)."""
    seen: list[torch.Tensor] = []
    blocks = loaded.model.get_submodule(BLOCKS.get(family, "model.language_model.layers"))
    streams = family == "gemma3n"  # of four the first is read and steered
    handles = [
        block.register_forward_hook(
            lambda m, a, out: seen.append((out[0] if isinstance(out, tuple) or streams else out).clone())
        )
        for block in blocks
    ]
    with torch.no_grad():
        logits = loaded.model(**inputs).logits[:, -1]
    for handle in handles:
        handle.remove()
    return seen, logits


def expected_rows(loaded: LoadedModel, inputs: Any) -> dict[Target, npt.NDArray[np.bool_]]:
    """The rule of each target, written down again: text is neither image nor special nor the last token of the prompt."""
    ids = inputs["input_ids"].numpy()
    image = ids == loaded.config.image_token_id
    text = ~image & ~np.isin(ids, loaded.bundle.special_ids)
    text[:, -1] = False
    return {"image": image, "text": text, "both": image | text}


@pytest.mark.parametrize(("family", "dtype"), FAMILIES_IN_DTYPES)
def test_exactly_alpha_times_v_is_added_at_the_target_and_no_other_row_moves(
    family: str, dtype: str, folders: dict[str, Path]
) -> None:
    loaded, inputs = load(folders[family], dtype)
    plain, _ = block_outputs(loaded, family, inputs)
    v = vector(MIDDLE, width=WIDTH)
    delta = torch.from_numpy(np.float32(0.7) * v.at(MIDDLE))
    for target, rows in expected_rows(loaded, inputs).items():
        hit = torch.from_numpy(rows)
        assert hit.any()
        assert not hit.all()
        with steercache.steer(loaded, v, layer=MIDDLE, alpha=0.7, target=target):
            steered, _ = block_outputs(loaded, family, inputs)
        moved = (plain[MIDDLE].float() + delta).to(plain[MIDDLE].dtype)  # one sum in float32, rounded once
        assert torch.equal(steered[MIDDLE][hit], moved[hit]), target
        assert torch.equal(steered[MIDDLE][~hit], plain[MIDDLE][~hit]), target
        assert torch.equal(steered[MIDDLE - 1], plain[MIDDLE - 1]), target
        assert not torch.equal(steered[LAST], plain[LAST]), target


@pytest.mark.parametrize("family", MAKERS)
def test_the_last_block_that_makes_keys_leaves_the_answer_alone_on_image_tokens_and_the_one_before_does_not(
    family: str, folders: dict[str, Path]
) -> None:
    loaded, inputs = load(folders[family])
    plain, answer = block_outputs(loaded, family, inputs)
    last = LAST_WITH_KEYS.get(family, LAST)
    v = vector(last - 1, last, width=WIDTH, scale=20.0)
    with steercache.steer(loaded, v, layer=last, alpha=1.0, target="image"):
        steered, same = block_outputs(loaded, family, inputs)
    assert not torch.equal(steered[last], plain[last])
    assert torch.equal(same, answer)
    with steercache.steer(loaded, v, layer=last - 1, alpha=1.0, target="image"):
        assert not torch.equal(block_outputs(loaded, family, inputs)[1], answer)


def test_every_multimodal_family_of_the_table_is_tried_here() -> None:
    assert {family.name for family in FAMILIES if family.modality == "image"} == {*MAKERS, *WITHOUT_PROCESSOR}
