"""The shape of *tiny*: a Gemma2 of six blocks, and the PaliGemma2 with a three-block SigLIP tower."""

from typing import Any, Final

from bench.zoo.tiny.tokens import IMAGE_SIZE, PATCH

HIDDEN: Final = 96
N_LAYERS: Final = 6


def text_config(tokenizer: Any) -> Any:
    """The backbone's configuration."""
    from transformers import Gemma2Config

    return Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=256,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        query_pre_attn_scalar=24,
        max_position_embeddings=512,
        sliding_window=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def mllm_config(tokenizer: Any) -> Any:
    """The PaliGemma2 configuration around the same text configuration."""
    from transformers import PaliGemmaConfig

    make: Any = PaliGemmaConfig
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
        "projection_dim": HIDDEN,
        "vision_use_head": False,
    }
    return make(
        text_config=text_config(tokenizer).to_dict(),
        vision_config=vision,
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
