"""Small random Gemma 3n with its ordinary processor, and a small convolution in the place of its vision tower.

Gemma 3n's tower is MobileNetV5 of timm, which needs torchvision. What is around it is transformers' own class: it takes the
tower's output (b, channels, lines, columns) and puts it into the prompt.
"""

from typing import Any

import torch
import transformers as tf
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig

from tests.models import tiny_images

TEXT = {
    **tiny_images.LLAMA,
    "model_type": "gemma3n_text",
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "num_kv_shared_layers": 1,
    "vocab_size_per_layer_input": 1600,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.5, 0.0, 0.0],
}
SOUND: dict[str, Any] = {
    "vocab_size": 4,
    "input_feat_size": 16,
    "hidden_size": 16,
    "conf_attention_chunk_size": 4,
    "conf_attention_context_left": 5,
    "conf_num_attention_heads": 2,
    "conf_num_hidden_layers": 1,
    "sscp_conv_channel_size": (4, 2),
}


class SmallTower(tf.PreTrainedModel):  # type: ignore[misc]
    """One convolution whose stride is a patch, `config.model_args["patch"]` pixels a side."""

    config: Gemma3nVisionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: Gemma3nVisionConfig) -> None:
        super().__init__(config)
        side = int((config.model_args or {})["patch"])
        self.patches = torch.nn.Conv2d(3, config.hidden_size, side, stride=side)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(
            last_hidden_state=self.patches(pixel_values.to(self.dtype))
        )  # as timm's wrapper


tf.AutoModel.register(Gemma3nVisionConfig, SmallTower, exist_ok=True)


def vision(*, hidden_size: int, patch: int, vocab_offset: int) -> dict[str, Any]:
    """Sizes of the tower, and which token ids it embeds itself."""
    return {
        "hidden_size": hidden_size,
        "model_args": {"patch": patch},
        "vocab_offset": vocab_offset,
        "vocab_size": 4,
        "label_names": ["thing", "other"],  # without them its configuration asks timm
    }


def gemma3n(tokenizer: Any) -> tuple[Any, Any]:
    """As E2B: four streams, per-layer inputs, shared keys; a picture is 4 x 4 tokens."""
    processor = tf.Gemma3nProcessor(
        tf.Gemma3nAudioFeatureExtractor(feature_size=16),
        tf.SiglipImageProcessorPil(size={"height": tiny_images.SIDE, "width": tiny_images.SIDE}, **tiny_images.MEAN),
        tokenizer,
        chat_template=tiny_images.chat_template("gemma3n"),
        image_seq_length=16,
        audio_seq_length=6,
    )
    ids = {name: tokenizer.convert_tokens_to_ids(f"<{name}_soft_token>") for name in ("image", "audio")}
    config = tf.Gemma3nConfig(
        text_config=TEXT,
        vision_config=vision(hidden_size=24, patch=tiny_images.PATCH, vocab_offset=1592),
        audio_config=SOUND | {"vocab_offset": 1596},
        vision_soft_tokens_per_image=16,
        audio_soft_tokens_per_image=6,
        **{f"{name}_token_id": one for name, one in ids.items()},
    )
    return processor, config
