"""Small models that read pictures around text models that the table of families does not have."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.models.tiny_images import LLAMA, MAKERS, VISION, save_random, train_tokenizer

_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@dataclass(frozen=True)
class Around:
    """A family around the text model that `text` sizes: where its parts are, as a person reads them off the class."""

    family: str
    text: dict[str, Any]
    maker: Callable[[Any], tuple[Any, Any]] | None = None
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    norm: str = "norm"


def granite_vision(tokenizer: Any) -> tuple[Any, Any]:
    """IBM's Granite Vision: LLaVA-NeXT around a SigLIP tower, of which it reads several blocks side by side."""
    processor, config = MAKERS["llava_next"](tokenizer)
    processor.vision_feature_select_strategy, processor.num_additional_image_tokens = "full", 0
    config.vision_feature_select_strategy, config.vision_feature_layer = "full", [-2, -1]
    tower = VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
    config.vision_config = type(config)(vision_config=tower).vision_config
    return processor, config


BACKBONES = {
    "llava-phi3": Around("llava", LLAMA | {"model_type": "phi3"}),
    "llava-phi": Around("llava", LLAMA | {"model_type": "phi"}, norm="final_layernorm"),
    "internvl-qwen3_moe": Around("internvl", LLAMA | _EXPERTS | {"model_type": "qwen3_moe"}),
    "llava_next-granite": Around(  # it scales what it adds
        "llava_next",
        LLAMA | {"model_type": "granite", "residual_multiplier": 0.5, "logits_scaling": 2.0},
        granite_vision,
        attn_out="",
        mlp_out="",
    ),
}


def write_around(name: str, folder: Path, *, text: dict[str, Any] | None = None) -> Path:
    """Save such a model, or one around the text model that `text` sizes, and its processor."""
    one = BACKBONES[name]
    tokenizer = train_tokenizer(one.family)
    tokenizer.chat_template = None
    processor, config = (one.maker or MAKERS[one.family])(tokenizer)
    config.text_config = type(config)(text_config=text or one.text).text_config
    return save_random(processor, config, folder)
