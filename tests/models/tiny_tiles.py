"""Random checkpoints of families that cut pictures into tiles or lines, with their ordinary processors."""

from typing import Any

import transformers as tf

from steercache.models.tokenizers import pixtral_processor, stills_of
from tests.models.tiny_images import LLAMA, MEAN, PATCH, PINPOINTS, SIDE, VISION, WIDTH, chat_template

_SIZE = {"height": SIDE, "width": SIDE}
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": None}
SIGLIP = VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
PIXTRAL = {name: value for name, value in VISION.items() if name != "image_size"} | {
    "model_type": "pixtral",
    "image_size": 3 * SIDE,
    "head_dim": 12,
}


def llava_next(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=_SIZE, image_grid_pinpoints=PINPOINTS, **MEAN
    )
    processor = tf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("llava_next"),
    )
    config = tf.LlavaNextConfig(
        vision_config=VISION | {"model_type": "clip_vision_model", "projection_dim": 24},
        text_config=MISTRAL,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
    )
    return processor, config


def _pixtral(tokenizer: Any, family: str, *, merge: int) -> Any:
    images = tf.PixtralImageProcessorPil(size={"longest_edge": 3 * SIDE}, patch_size=PATCH * merge, **MEAN)
    return pixtral_processor()(
        images, tokenizer, patch_size=PATCH, spatial_merge_size=merge, chat_template=chat_template(family)
    )


def pixtral(tokenizer: Any) -> tuple[Any, Any]:
    config = tf.LlavaConfig(
        vision_config=PIXTRAL,
        text_config=MISTRAL,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return _pixtral(tokenizer, "pixtral", merge=1), config


def mistral3(tokenizer: Any) -> tuple[Any, Any]:
    config = tf.Mistral3Config(
        vision_config=PIXTRAL,
        text_config=MISTRAL,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return _pixtral(tokenizer, "mistral3", merge=2), config


def internvl(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.GotOcr2ImageProcessorPil(size=_SIZE, min_patches=1, max_patches=6, **MEAN)
    processor = stills_of(tf.InternVLProcessor)(
        images, tokenizer, image_seq_length=4, chat_template=chat_template("internvl")
    )
    config = tf.InternVLConfig(
        vision_config=VISION | {"model_type": "internvl_vision"},
        text_config=LLAMA | {"model_type": "qwen2"},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return processor, config


def idefics2(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.Idefics2ImageProcessorPil(
        size={"shortest_edge": SIDE // 2, "longest_edge": 2 * SIDE}, do_image_splitting=True, **MEAN
    )
    processor = tf.Idefics2Processor(images, tokenizer, image_seq_len=5, chat_template=chat_template("idefics2"))
    config = tf.Idefics2Config(
        vision_config=VISION | {"image_size": 2 * SIDE},
        text_config=MISTRAL,
        perceiver_config={
            "hidden_size": WIDTH,
            "resampler_n_latents": 5,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    return processor, config


def aya_vision(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.GotOcr2ImageProcessorPil(size=_SIZE, min_patches=1, max_patches=6, **MEAN)
    processor = tf.AyaVisionProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        img_size=SIDE,
        downsample_factor=2,
        chat_template=chat_template("aya_vision"),
    )
    config = tf.AyaVisionConfig(
        vision_config=SIGLIP,
        text_config=LLAMA | {"model_type": "cohere2", "sliding_window": 24},
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        tie_word_embeddings=True,
    )
    return processor, config
