"""Small random Gemma 4 with its ordinary processor."""

from typing import Any

import transformers as tf

from steercache.models.tokenizers import stills_of
from tests.models import tiny_images

TEXT = tiny_images.LLAMA | {
    "model_type": "gemma4_text",
    "sliding_window": 24,
    "global_head_dim": 16,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "num_kv_shared_layers": 1,
    "vocab_size_per_layer_input": 1600,
    "hidden_size_per_layer_input": 8,
}
SOUND = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "subsampling_conv_channels": (16, 4),
    "attention_chunk_size": 4,
    "attention_context_left": 5,
    "output_proj_dims": 24,
}


def gemma4(tokenizer: Any, *, hears: bool = False) -> tuple[Any, Any]:
    """As E2B: per-layer inputs, shared keys; its processor fits every picture into 70 tokens of 3 x 3 patches."""
    images = tf.Gemma4ImageProcessorPil(patch_size=tiny_images.PATCH, max_soft_tokens=70, pooling_kernel_size=3)
    sounds = tf.Gemma4AudioFeatureExtractor(feature_size=16)
    processor = stills_of(tf.Gemma4Processor)(
        sounds, images, tokenizer, video_processor=None, chat_template=tiny_images.chat_template("gemma4")
    )
    config = tf.Gemma4Config(
        vision_config=tiny_images.VISION
        | {"head_dim": 12, "num_key_value_heads": 2, "position_embedding_size": 64, "pooling_kernel_size": 3},
        text_config=TEXT,
        audio_config=SOUND if hears else None,
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image", "audio", "video")},
    )
    return processor, config
