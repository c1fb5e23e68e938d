"""Prompts in words: what steering, words, damage and evaluation put into a model is what a trace puts in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.answers.damage import neutral_inputs, neutral_samples
from steercache.core.errors import UsageError
from steercache.core.examples import Example
from steercache.core.vectors import SteeringVector
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.steering.effect_inputs import prompt_inputs
from steercache.steering.generate import SteeringSetting, generate_side_by_side
from steercache.steering.prompts import encode_prompts
from steercache.trace.encode import encode_example
from tests.models.tiny import manifest_of, write_tiny
from tests.models.tiny_images import write_tiny_images

KINDS = ("llama", "llama-bos", "paligemma", "gemma3", "idefics3")
TEXTS = st.text("The cat on.naïve 日本\n", min_size=1, max_size=30).filter(str.strip)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    return {kind: _load(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def _load(kind: str, folder: Path) -> LoadedModel:
    family, _, bos = kind.partition("-")
    path = write_tiny(family, folder, bos=bool(bos)) if family == "llama" else write_tiny_images(family, folder)
    return load_model(manifest_of(path), cache_dir=folder / "cache", device="cpu")


def traced(loaded: LoadedModel, text: str, *, chat: bool) -> list[int]:
    ids: list[int] = encode_example(
        Example(dataset="d", place="p", text=text, chat=chat), loaded.bundle
    ).input_ids.tolist()
    return ids


def by_hand(kind: str, loaded: LoadedModel, text: str) -> list[int]:
    """A bare prompt by transformers' own tokenizer; PaliGemma's processor switches its BOS off and writes one itself."""
    tokenizer: Any = loaded.tokenizer
    if kind != "paligemma":
        return list(tokenizer(text)["input_ids"])
    return [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), chat=st.booleans())
def test_every_path_gives_a_prompt_the_ids_that_a_trace_gives_it(
    models: dict[str, LoadedModel], kind: str, texts: list[str], chat: bool
) -> None:
    loaded = models[kind]
    expected = [traced(loaded, text, chat=chat) for text in texts]
    live = encode_prompts(loaded, texts, chat=chat)
    real = live["attention_mask"].bool()
    assert [row[keep].tolist() for row, keep in zip(live["input_ids"], real, strict=True)] == expected
    assert bool(real[:, -1].all())  # padded on the left
    if not chat:
        assert expected == [by_hand(kind, loaded, text) for text in texts]
        inputs = prompt_inputs(loaded, texts)
        (batch,) = inputs.batches()
        words = [row[keep].tolist() for row, keep in zip(batch.input_ids, batch.attention_mask.bool(), strict=True)]
        assert words == expected
        samples = [encode_example(Example(dataset="d", place="p", text=t), loaded.bundle) for t in texts]
        assert inputs.sample_ids == tuple(sample.sample_id for sample in samples)


@pytest.mark.parametrize("kind", KINDS)
def test_what_generate_reads_is_what_a_trace_reads(models: dict[str, LoadedModel], kind: str) -> None:
    loaded, seen = models[kind], []
    prompts = ["The cat is on it", "The", "on the table"]
    vector = SteeringVector(
        name="v",
        method="random",
        concept=None,
        site="resid_post",
        layers=(1,),
        values=np.ones((1, loaded.spec.hidden_size), np.float32),
        provenance={},
    )
    handle = loaded.model.get_input_embeddings().register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        generate_side_by_side(loaded, vector, prompts, settings=[SteeringSetting(layer=1, alpha=0.5)], max_new_tokens=3)
    finally:
        handle.remove()
    expected = [traced(loaded, prompt, chat=False) for prompt in prompts]
    for row, ids in zip(seen[0].tolist(), expected, strict=True):
        assert row[-len(ids) :] == ids


def test_a_multimodal_model_continues_bare_text_as_its_forward_says(models: dict[str, LoadedModel]) -> None:
    """With the token types that the trace gives: without them PaliGemma reads a text in another direction."""
    loaded = models["paligemma"]
    batch = encode_prompts(loaded, ["The cat is on it"])
    with torch.inference_mode():
        logits = loaded.model(**batch).logits[:, -1]
        written = loaded.model.generate(**batch, max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert written[0, -1] == logits.argmax()
    assert batch["token_type_ids"].tolist() == [[1] * batch["input_ids"].shape[1]]


def test_neutral_prompts_are_encoded_in_one_way(models: dict[str, LoadedModel]) -> None:
    for kind in ("llama", "llama-bos", "paligemma"):
        inputs, samples = neutral_inputs(models[kind]), neutral_samples(models[kind].bundle)
        assert sorted(inputs.sample_ids) == sorted(sample.sample_id for sample in samples)


def test_a_prompt_that_cannot_be_encoded_is_named_by_its_number(models: dict[str, LoadedModel]) -> None:
    with pytest.raises(UsageError, match="no prompt"):
        encode_prompts(models["llama"], [])
    with pytest.raises(UsageError, match="prompt 2: the text has no tokens"):
        encode_prompts(models["llama"], ["The", ""])
    with pytest.raises(UsageError, match=r"prompt 1: .* tokens, 64 are allowed"):
        encode_prompts(models["llama"], ["The cat " * 64])
