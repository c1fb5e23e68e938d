"""SmolVLM2: the class of a row of the table with a processor of its own, which asks for num2words and a part for videos."""

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.models.tokenizers import stills_of
from steercache.trace.batches import pad_batch
from steercache.trace.capture import capture
from steercache.trace.encode import encode_example
from tests.models.tiny import manifest_of
from tests.models.tiny_images import (
    LLAMA,
    MEAN,
    N_LAYERS,
    SIDE,
    VISION,
    chat_template,
    picture,
    save_random,
    train_tokenizer,
)
from tests.trace.test_images import IMAGE, example, pil


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The processor's files are those of Idefics3's with its own name: without num2words it cannot be made to save them."""
    tokenizer = train_tokenizer("idefics3")
    tokenizer.chat_template = None
    images = tf.SmolVLMImageProcessorPil(
        size={"longest_edge": 3 * SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=True, **MEAN
    )
    processor = tf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat_template("idefics3"))
    config = tf.SmolVLMConfig(
        vision_config=VISION,
        text_config=LLAMA | {"model_type": "llama"},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    made = save_random(processor, config, tmp_path_factory.mktemp("smolvlm"))
    path = made / "processor_config.json"
    path.write_text(path.read_text().replace("Idefics3Processor", "SmolVLMProcessor"))
    return made


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu", dtype="float32")


def test_its_own_processor_is_loaded_for_still_pictures(loaded: LoadedModel) -> None:
    assert loaded.spec.family == "idefics3"
    assert type(loaded.processor) is tf.SmolVLMProcessor
    assert type(pickle.loads(pickle.dumps(loaded.processor))) is tf.SmolVLMProcessor
    if importlib.util.find_spec("num2words") is None:  # what was lent to make it is taken back
        with pytest.raises(ImportError, match="num2words"):
            stills_of(tf.SmolVLMProcessor)(loaded.processor.image_processor, loaded.tokenizer, None)


@pytest.mark.parametrize("chat", [False, True])
def test_tokens_and_rows_are_those_of_the_processor_and_a_plain_forward(loaded: LoadedModel, chat: bool) -> None:
    processor: Any = loaded.processor
    asked = example("The cat is on the table", picture(50, 80), chat=chat)
    text = "<image>" + asked.text
    if chat:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked.text}]}]
        text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    plain = processor(images=[[pil(ref) for ref in asked.images]], text=[text], return_tensors="pt")
    sample = encode_example(asked, loaded.bundle)
    assert sample.input_ids.tolist() == plain["input_ids"][0].tolist()
    assert (sample.kind == IMAGE).sum() == 4 * plain["pixel_values"].shape[1]
    assert sample.tile.max() + 1 == plain["pixel_values"].shape[1]
    places = np.stack([sample.tile, sample.patch_row, sample.patch_col], axis=1)[sample.kind == IMAGE]
    assert len(np.unique(places, axis=0)) == len(places)
    with torch.no_grad():
        own = loaded.model(**plain, output_hidden_states=True).hidden_states
    batch = pad_batch([sample], padding_side="left", pad_id=0)
    states = capture(loaded, batch, sites=["resid_post"], layers=range(N_LAYERS))["resid_post"]
    for layer in range(N_LAYERS - 1):
        assert torch.equal(states[layer], own[layer + 1])
