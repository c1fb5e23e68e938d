"""The text that the shipped SAE is trained on: the decoder against transformers' model, and prompts of our own only."""

from itertools import islice
from typing import Any

import torch

from bench.zoo.decoding import Decoder
from bench.zoo.prompts import OPENINGS, REQUESTS, TOPICS, prompts
from steercache.data.concept_set import concept_rows
from steercache.data.rows import Row
from steercache.manifests.dataset import CONCEPTS


def small_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@torch.inference_mode()
def test_the_decoder_gives_the_logits_of_transformers_also_for_a_text_begun_later() -> None:
    model = small_llama()
    ids = torch.randint(0, 97, (4, 12), generator=torch.Generator().manual_seed(1))
    decoder = Decoder(model, n_rows=4, n_steps=12)
    for step in range(12):
        if step == 5:
            decoder.begin(2)
        logits = decoder.step(ids[:, step])
        for row in range(4):
            start = 5 if row == 2 and step >= 5 else 0
            expected = model(input_ids=ids[row : row + 1, start : step + 1]).logits[0, -1]
            torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-5)


def test_prompts_are_drawn_by_the_seed_and_vary() -> None:
    first = list(islice(prompts(0), 400))
    assert first == list(islice(prompts(0), 400))
    assert first[:20] != list(islice(prompts(1), 20))
    assert 0.4 < sum(prompt.form == "chat" for prompt in first) / 400 < 0.6
    assert len({prompt.text for prompt in first}) > 250


def test_prompts_hold_none_of_the_sentences_that_ship() -> None:
    ours = " ".join([*TOPICS, *OPENINGS, *REQUESTS]).lower()
    sentences = [str(row.values["text"]) for row in concept_rows(CONCEPTS) if isinstance(row, Row)]
    assert len(sentences) >= 160
    assert not [text for text in sentences if text.lower().rstrip(".") in ours]
