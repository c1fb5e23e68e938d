"""Small models that read pictures around text models that the table of families does not have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.models.tiny_images import LLAMA, MAKERS, save_random, train_tokenizer

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@dataclass(frozen=True)
class Around:
    """A family around the text model that `text` sizes: where its parts are, as a person reads them off the class."""

    family: str
    text: dict[str, Any]
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    norm: str = "norm"


BACKBONES = {
    "llava-phi3": Around("llava", LLAMA | {"model_type": "phi3"}),
    "llava-phi": Around("llava", LLAMA | {"model_type": "phi"}, norm="final_layernorm"),
    "internvl-qwen3_moe": Around("internvl", LLAMA | _EXPERTS | {"model_type": "qwen3_moe"}),
    "llava_next-granite": Around(  # IBM's Granite Vision; it scales what it adds
        "llava_next",
        LLAMA | {"model_type": "granite", "residual_multiplier": 0.5, "logits_scaling": 2.0},
        attn_out="",
        mlp_out="",
    ),
}


def write_around(name: str, folder: Path) -> Path:
    """Save such a model and its processor."""
    one = BACKBONES[name]
    tokenizer = train_tokenizer(one.family)
    tokenizer.chat_template = None
    processor, config = MAKERS[one.family](tokenizer)
    config.text_config = type(config)(text_config=one.text).text_config
    return save_random(processor, config, folder)
