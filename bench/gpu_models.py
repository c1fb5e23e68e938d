"""Checkpoints of published architectures with random weights, for machines that cannot download: real sizes, and tiny ones.

Configurations are the published ones (widths, depths, heads, pixels); the tokenizer is small, its ids lie within the model's
vocabulary. What is computed costs what the real model's does, and means nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from steercache.data.concept_set import concept_rows
from steercache.data.rows import Row
from steercache.manifests.dataset import CONCEPTS

MARKS = ("<pad>", "<bos>", "<eos>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MEAN = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
GEMMA_2_2B = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
}
LLAMA_3_1_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131_072,
}
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_SMALL_GEMMA = GEMMA_2_2B | _SMALL | {"vocab_size": 1000, "head_dim": 16, "query_pre_attn_scalar": 16}
_SMALL_LLAMA = LLAMA_3_1_8B | _SMALL | {"vocab_size": 1000, "max_position_embeddings": 4096}
_SMALL_TOWER = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 14,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Configurations of one size: text models, the vision tower, and pixels of a view."""

    gemma: Mapping[str, Any]
    llama: Mapping[str, Any]
    tower: Mapping[str, Any]
    paligemma_side: int
    idefics_side: int


SIZES = {
    "real": Sizes(gemma=GEMMA_2_2B, llama=LLAMA_3_1_8B, tower=SIGLIP_SO400M, paligemma_side=448, idefics_side=364),
    "small": Sizes(gemma=_SMALL_GEMMA, llama=_SMALL_LLAMA, tower=_SMALL_TOWER, paligemma_side=56, idefics_side=56),
}
Made = tuple[Any, Any | None]  # a configuration, and the processor of a model that reads pictures


def gemma_2_2b(tokenizer: Any, sizes: Sizes) -> Made:
    return tf.Gemma2Config(**sizes.gemma, **IDS), None


def llama_3_1_8b(tokenizer: Any, sizes: Sizes) -> Made:
    return tf.LlamaConfig(**sizes.llama, **IDS), None


def paligemma2_3b(tokenizer: Any, sizes: Sizes) -> Made:
    side, width = sizes.paligemma_side, sizes.gemma["hidden_size"]
    images = tf.SiglipImageProcessorPil(size={"height": side, "width": side}, **MEAN)
    images.image_seq_length = (side // 14) ** 2
    config = tf.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "image_size": side, "projection_dim": width, **sizes.tower},
        text_config={"model_type": "gemma2", **sizes.gemma, **IDS},
        projection_dim=width,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return config, tf.PaliGemmaProcessor(images, tokenizer)


def idefics3_8b(tokenizer: Any, sizes: Sizes) -> Made:
    side = sizes.idefics_side
    images = tf.Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side}, do_image_splitting=True, **MEAN
    )
    n_tokens = (side // 14 // 2) ** 2
    config = tf.Idefics3Config(
        vision_config={"image_size": side, **sizes.tower},
        text_config={"model_type": "llama", **sizes.llama, **IDS},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return config, tf.Idefics3Processor(images, tokenizer, image_seq_len=n_tokens, chat_template=CHAT)


MODELS: dict[str, Callable[[Any, Sizes], Made]] = {
    "gemma-2-2b": gemma_2_2b,
    "llama-3.1-8b": llama_3_1_8b,
    "paligemma2-3b-448": paligemma2_3b,
    "idefics3-8b": idefics3_8b,
}


def write_checkpoint(name: str, folder: Path, *, size: str, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Random weights, configuration, tokenizer and processor in `folder`; returns the model manifest."""
    tokenizer = small_tokenizer()
    config, processor = MODELS[name](tokenizer, SIZES[size])
    auto: Any = tf.AutoModelForCausalLM if processor is None else tf.AutoModelForImageTextToText
    torch.manual_seed(0)
    with torch.device(device):
        model = auto.from_config(config, dtype=dtype)
    tf.utils.logging.disable_progress_bar()
    model.save_pretrained(folder, max_shard_size="4GB")
    (tokenizer if processor is None else processor).save_pretrained(folder)
    return {
        "kind": "model",
        "version": 1,
        "name": name,
        "source": {"type": "path", "folder": str(folder.resolve())},
    }


def small_tokenizer() -> Any:
    """Byte-level BPE of 900 tokens, trained on the sentences that ship."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tags = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*MARKS, *tags],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sentences = [str(row.values["text"]) for row in concept_rows(CONCEPTS) if isinstance(row, Row)]
    backend.train_from_iterator(sentences, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
