"""The assembled *demo*: it is SmolLM2 plus the shipped update, and loads and answers as any checkpoint does."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.zoo.evaluate import put
from steercache import zoo
from steercache.core.errors import DamagedError
from steercache.data.scenes import make_example
from steercache.zoo.demo.assemble import read_delta
from steercache.zoo.demo.lora import FIRST_LAYER, GAIN
from steercache.zoo.demo.shape import N_IMAGE_TOKENS
from steercache.zoo.shelf import DEMO


def test_the_shipped_file_holds_no_weight_of_smollm2() -> None:
    names = set(read_delta(DEMO / "delta.safetensors"))
    assert {name.split(".")[0] for name in names} == {"vision", "connector", "low_rank"}
    updates = {name for name in names if name.startswith("low_rank.")}
    assert len(updates) == (30 - FIRST_LAYER) * 7 * 2
    assert all(name.endswith((".a", ".b")) for name in updates)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    cut = tmp_path / "delta.safetensors"
    cut.write_bytes((DEMO / "delta.safetensors").read_bytes()[:4000])
    with pytest.raises(DamagedError, match=r"delta\.safetensors"):
        read_delta(cut)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("demo")
    with contextlib.redirect_stderr(io.StringIO()) as said:
        built = zoo.build("demo", place / "demo"), zoo.build("demo-backbone", place / "backbone")
    assert said.getvalue() == "", "no progress bars of transformers"
    return built


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_its_language_model_is_smollm2_plus_the_update(folders: tuple[Path, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(folders[0])
    backbone: Any = AutoModelForCausalLM.from_pretrained(folders[1])
    assert type(model).__name__ == "Idefics3ForConditionalGeneration"
    delta = read_delta(DEMO / "delta.safetensors")
    ours, theirs = model.model.text_model.state_dict(), backbone.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        place = name.removesuffix(".weight")
        if name == "embed_tokens.weight":
            assert torch.equal(ours[name][: len(weight)], weight)
        elif f"low_rank.{place}.a" in delta:
            a, b = (delta[f"low_rank.{place}.{part}"].float() for part in ("a", "b"))
            assert torch.equal(ours[name], (weight.float() + GAIN * b @ a).to(weight.dtype)), name
        else:
            assert torch.equal(ours[name], weight), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_answers_through_the_ordinary_classes(folders: tuple[Path, Path]) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processors: Any = AutoProcessor
    processor = processors.from_pretrained(folders[0])
    model: Any = AutoModelForImageTextToText.from_pretrained(folders[0])
    examples = [make_example(3, idx) for idx in range(4)]
    texts = [put(processor, f"Answer with the letter only.\n{example.question.prompt}") for example in examples]
    images = [[example.image()] for example in examples]
    processor.tokenizer.padding_side = "left"
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [N_IMAGE_TOKENS] * 4
    assert inputs["pixel_values"].shape == (4, 1, 3, 100, 100)
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    said = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert all(word.strip() for word in said)
