"""Random checkpoints of every text family as real folders, and the paths of their modules written down a second time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from steercache.manifests.model import ModelManifest

WIDTH, N_LAYERS = 32, 3
CORPUS = [
    "The cat is on the table next to the small red box.",
    "Two dogs ran under the bridge, in front of three cars.",
    "naïve café 🙂 日本語 left of the moon",
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@dataclass(frozen=True)
class Paths:
    """Where things are, read off transformers' source by a person, not off the table under test."""

    blocks: str = "model.layers"
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    head_out: str = "self_attn.o_proj"
    final_norm: str = "model.norm"


PATHS = {
    **dict.fromkeys(["llama", "mistral", "qwen2", "qwen3", "gemma"], Paths()),
    **dict.fromkeys(
        ["gemma2", "gemma3_text"], Paths(attn_out="post_attention_layernorm", mlp_out="post_feedforward_layernorm")
    ),
    "gemma4_text": Paths(attn_out="", mlp_out=""),  # a block is not the sum of two parts
    "gemma3n_text": Paths(attn_out="", mlp_out=""),
    "gpt2": Paths(blocks="transformer.h", attn_out="attn", head_out="attn.c_proj", final_norm="transformer.ln_f"),
    "gpt_neox": Paths(
        blocks="gpt_neox.layers",
        attn_out="attention",
        head_out="attention.dense",
        final_norm="gpt_neox.final_layer_norm",
    ),
}
TEXT_FAMILIES = tuple(PATHS)

_DECODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
_LOCAL = {"sliding_window": 4, "query_pre_attn_scalar": 8}  # a window shorter than the samples, so that masks matter
_SIZES: dict[str, dict[str, Any]] = {
    "gemma2": _DECODER | _LOCAL,
    "gemma3_text": _DECODER | _LOCAL,
    "gemma4_text": _DECODER
    | {
        "sliding_window": 4,
        "global_head_dim": 12,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": 330,
        "hidden_size_per_layer_input": 8,
    },
    "gemma3n_text": _DECODER
    | {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": 330,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0],
    },
    "gpt2": {"n_embd": WIDTH, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64},
    "gpt_neox": {k: v for k, v in _DECODER.items() if k not in ("num_key_value_heads", "head_dim")},
}


def train_tokenizer(*, bos: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few hundred tokens with a chat template; `bos` puts <s> before every text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    named = ["<pad>", "<s>", "</s>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=named, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE
    )


def tiny_config(family: str, **changes: Any) -> Any:
    """A config of `family` for the tokenizer above."""
    sizes = _SIZES.get(family, _DECODER) | {"vocab_size": 330, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return AutoConfig.for_model(family, **(sizes | changes))


def write_tiny(family: str, folder: Path, *, seed: int = 0, bos: bool = False, **changes: Any) -> Path:
    """Save a random model and its tokenizer as `save_pretrained` does."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes))
    for parameter in model.parameters():  # norms and biases too, so that none is an identity
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    train_tokenizer(bos=bos).save_pretrained(folder)
    return folder


def manifest_of(folder: Path | str, **fields: Any) -> ModelManifest:
    """A model manifest for a local folder."""
    document = {"kind": "model", "version": 1, "name": "tiny", "source": {"type": "path", "folder": str(folder)}}
    return ModelManifest.model_validate_json(json.dumps(document | {"attention": "eager"} | fields))
