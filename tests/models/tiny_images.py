"""Random multimodal checkpoints of every family with their ordinary processors, and pictures to show them."""

import functools
import importlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from steercache.core.examples import ImageRef
from steercache.models.tokenizers import stills_of
from tests.models.tiny import CORPUS

WIDTH, N_LAYERS = 32, 3
PATCH, SIDE = 8, 32  # a view of 32 x 32 pixels is 4 x 4 patches
MARKS = [
    *("<pad>", "<s>", "</s>", "<image>", "<video>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|user|>", "<|assistant|>", "<|end|>"),
]
GLM = ("glm4v", "glm4v_moe", "glm46v")
# no BOS; grids of patches, and positions in time, height and width
GRIDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", *GLM)
DEEPSTACK = {"qwen3_vl": 1, "qwen3_vl_moe": 1}  # to the outputs of as many blocks the decoder adds features of pictures
_SOUNDS = ["<|audio|>", "<|audio>", "<audio|>"]
MORE_MARKS = {  # of families whose marks are not those of most
    "pixtral": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"],
    "mistral3": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"],
    "internvl": ["<img>", "</img>", "<IMG_CONTEXT>"],
    "gemma3n": ["<audio_soft_token>", "<start_of_audio>", "<end_of_audio>"],
    "gemma4": ["<|image|>", "<|image>", "<image|>", *_SOUNDS, "<|video|>", "<|turn>", "<turn|>"],
    "aya_vision": [
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "TILE_GLOBAL",
        *(f"TILE_{i}" for i in range(1, 7)),
    ],
}
PLACEHOLDER = {
    "gemma3": "<start_of_image>",
    "gemma3n": "<image_soft_token>",
    "gemma4": "<|image|>",
    **dict.fromkeys(GRIDS, "<|vision_start|><|image_pad|><|vision_end|>"),
    **dict.fromkeys(GLM, "<|begin_of_image|><|image|><|end_of_image|>"),
    "pixtral": "[IMG]",
    "mistral3": "[IMG]",
    "internvl": "<IMG_CONTEXT>",
}
# Those of tests.models.tiny_tiles.
TILED = ("llava_next", "pixtral", "mistral3", "internvl", "idefics2", "aya_vision")
NO_BOS = (*GRIDS, "gemma4", "internvl")
# Their image processors need torchvision: layouts, values and steering are tested without.
WITHOUT_PROCESSOR = ("llama4", "molmo2")
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{% for part in m['content'] %}{% if part['type'] == 'image' %}"
    "PLACEHOLDER{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def train_tokenizer(family: str) -> Any:
    """Byte-level BPE with every family's marks; <s> before the text, as most of them have it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tags = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=MARKS + tags + MORE_MARKS.get(family, []) + (list(GLM_IDS.values()) if family in GLM else []),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    if family not in NO_BOS:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"image_token": "<image>"}
    if family == "gemma3":
        named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    elif family == "gemma3n":
        named = {
            f"{name}_token": f"<{mark}>"
            for kind, k in (("image", "i"), ("audio", "a"))
            for name, mark in (
                (kind, f"{kind}_soft_token"),
                (f"bo{k}", f"start_of_{kind}"),
                (f"eo{k}", f"end_of_{kind}"),
            )
        }
    elif family in GLM:
        named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    elif family in GRIDS:
        named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    elif family == "gemma4":
        named = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
        named |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    elif family == "internvl":
        named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
        named["video_token"] = "<video>"
    elif family in ("pixtral", "mistral3", "aya_vision", "idefics2"):
        named = {}
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=named
    )


def chat_template(family: str) -> str:
    bos = "<s>" if family == "gemma4" else ""  # its tokenizer puts none before a text, its template does
    return bos + CHAT.replace("PLACEHOLDER", PLACEHOLDER.get(family, "<image>"))


_TEXT = {
    "vocab_size": 1600,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "sliding_window": 24,
    "query_pre_attn_scalar": 8,
}
LLAMA = {k: v for k, v in _TEXT.items() if k not in ("sliding_window", "query_pre_attn_scalar")}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_SIZE = {"height": SIDE, "width": SIDE}
MEAN = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
PINPOINTS = [[32, 32], [32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]


def paligemma2(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.SiglipImageProcessorPil(size=_SIZE, **MEAN)
    images.image_seq_length = 16
    processor = tf.PaliGemmaProcessor(images, tokenizer, chat_template=chat_template("paligemma"))
    config = tf.PaliGemmaConfig(
        vision_config=VISION | {"model_type": "siglip_vision_model", "projection_dim": WIDTH},
        text_config=_TEXT | {"model_type": "gemma2"},
        projection_dim=WIDTH,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return processor, config


def idefics3(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.Idefics3ImageProcessorPil(
        size={"longest_edge": 3 * SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=True, **MEAN
    )
    processor = tf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat_template("idefics3"))
    config = tf.Idefics3Config(
        vision_config=VISION,
        text_config=LLAMA | {"model_type": "llama"},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return processor, config


def gemma3(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.Gemma3ImageProcessorPil(size=_SIZE, **MEAN)
    processor = tf.Gemma3Processor(images, tokenizer, image_seq_length=4, chat_template=chat_template("gemma3"))
    config = tf.Gemma3Config(
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=_TEXT | {"model_type": "gemma3_text"},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    return processor, config


def llava(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SIZE, **MEAN)
    processor = tf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("llava"),
    )
    config = tf.LlavaConfig(
        vision_config=VISION | {"model_type": "clip_vision_model", "projection_dim": 24},
        text_config=LLAMA | {"model_type": "llama"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
    )
    return processor, config


def llava_onevision(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.LlavaOnevisionImageProcessorPil(size=_SIZE, image_grid_pinpoints=PINPOINTS, **MEAN)
    processor = stills_of(tf.LlavaOnevisionProcessor)(
        images,
        tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=chat_template("llava_onevision"),
    )
    config = tf.LlavaOnevisionConfig(
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        text_config=LLAMA | {"model_type": "qwen2"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_aspect_ratio="anyres_max_4",
    )
    return processor, config


def qwen2_5_vl(tokenizer: Any) -> tuple[Any, Any]:
    images = tf.Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=2, temporal_patch_size=2, min_pixels=16 * 16, max_pixels=96 * 96, **MEAN
    )
    processor = stills_of(tf.Qwen2_5_VLProcessor)(images, tokenizer, None, chat_template=chat_template("qwen2_5_vl"))
    config = tf.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 32,
            "fullatt_block_indexes": [1],
            "out_hidden_size": WIDTH,
        },
        text_config=LLAMA
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    return processor, config


IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
GLM_IDS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}
GRID_VISION = {
    "depth": 2,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": WIDTH,
}


def gridded(
    family: str, tokenizer: Any, *, vision: dict[str, Any], text: dict[str, Any], rope: dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """A family whose pictures are grids of patches with positions in time, height and width."""
    glm, sizes = family in GLM, {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    if glm:  # pixels of the two frames that a picture is made of
        small: dict[str, Any] = {"size": {"shortest_edge": 2 * 16 * 16, "longest_edge": 2 * 96 * 96}}
    else:
        small = {"min_pixels": 16 * 16, "max_pixels": 96 * 96}
    images = PROCESSORS[family][1](**sizes, **small, **MEAN)
    processor = stills_of(PROCESSORS[family][0])(images, tokenizer, None, chat_template=chat_template(family))
    rotary = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]} | (rope or {})
    config = tf.AutoConfig.for_model(
        family,
        vision_config=GRID_VISION | vision,
        text_config=LLAMA | text | {"rope_parameters": rotary},
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in (GLM_IDS if glm else IDS).items()},
    )
    return processor, config


PROCESSORS = {
    "qwen2_vl": (tf.Qwen2VLProcessor, tf.Qwen2VLImageProcessorPil),
    "qwen3_vl": (tf.Qwen3VLProcessor, tf.Qwen2VLImageProcessorPil),
    "qwen3_vl_moe": (tf.Qwen3VLProcessor, tf.Qwen2VLImageProcessorPil),
    "qwen3_5": (tf.Qwen3VLProcessor, tf.Qwen2VLImageProcessorPil),
    "qwen3_5_moe": (tf.Qwen3VLProcessor, tf.Qwen2VLImageProcessorPil),
    "glm4v": (tf.Glm4vProcessor, tf.Glm4vImageProcessorPil),
    "glm4v_moe": (tf.Glm4vProcessor, tf.Glm4vImageProcessorPil),
    "glm46v": (tf.Glm46VProcessor, tf.Glm46VImageProcessorPil),
}
_SQUARE = {"num_position_embeddings": 36}
_STACK = _SQUARE | {"deepstack_visual_indexes": [0]}
_QUARTER = {"partial_rotary_factor": 1.0}
_GLM_VISION = {"image_size": SIDE}
GRIDDED: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"vision": {"embed_dim": 24, "hidden_size": WIDTH, "mlp_ratio": 2}, "text": {}},
    "qwen3_vl": {"vision": _STACK, "text": {}},
    "qwen3_vl_moe": {"vision": _STACK, "text": EXPERTS},
    "qwen3_5": {"vision": _SQUARE, "text": LINEAR, "rope": _QUARTER},
    "qwen3_5_moe": {
        "vision": _SQUARE,
        "text": LINEAR | EXPERTS | {"shared_expert_intermediate_size": 16},
        "rope": _QUARTER,
    },
    "glm4v": {"vision": _GLM_VISION, "text": {}},
    "glm4v_moe": {
        "vision": _GLM_VISION,
        "text": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1}
        | {"topk_group": 1, "first_k_dense_replace": 1},
        "rope": _QUARTER,
    },
    "glm46v": {"vision": _GLM_VISION, "text": {}},
}


def _later(module: str, name: str) -> Callable[[Any], tuple[Any, Any]]:
    """A maker of a module that takes its sizes from here."""
    return lambda tokenizer: getattr(importlib.import_module(f"tests.models.{module}"), name)(tokenizer)  # type: ignore[no-any-return]


MAKERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "paligemma": paligemma2,
    "idefics3": idefics3,
    "gemma3": gemma3,
    "llava": llava,
    "llava_onevision": llava_onevision,
    "qwen2_5_vl": qwen2_5_vl,
    "gemma3n": _later("tiny_gemma3n", "gemma3n"),
    "gemma4": _later("tiny_gemma", "gemma4"),
    **{name: _later("tiny_tiles", name) for name in TILED},
} | {family: functools.partial(gridded, family, **sizes) for family, sizes in GRIDDED.items()}


FAMILIES_IN_DTYPES = [
    pytest.param(family, dtype, marks=[pytest.mark.slow] if family in TILED and dtype == "bfloat16" else [])
    for family in MAKERS
    for dtype in ("float32", "bfloat16")
]


def write_tiny_images(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a random multimodal model and its processor as `save_pretrained` does."""
    tokenizer = train_tokenizer(family)
    tokenizer.chat_template = None
    return save_random(*MAKERS[family](tokenizer), folder, seed=seed)


class Written(dict[str, Path]):
    """Folders of random models by family, each written when it is first asked for: most runs try a few families."""

    def __init__(self, factory: Any) -> None:
        super().__init__()
        self._factory = factory

    def __missing__(self, family: str) -> Path:
        self[family] = write_tiny_images(family, self._factory.mktemp(family))
        return self[family]


_WRITTEN: dict[Path, Written] = {}


def written(factory: Any) -> Written:
    """The folders of a test session, for tests that leave them as they are."""
    return _WRITTEN.setdefault(factory.getbasetemp(), Written(factory))


def save_random(processor: Any, config: Any, folder: Path, *, seed: int = 0) -> Path:
    """Save a processor and a random model of a configuration."""
    torch.manual_seed(seed)
    model = tf.AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("layer_scalar"):  # Gemma 4 scales what a block hands on
            buffer.data += 0.1 * torch.randn_like(buffer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(width: int, height: int, *, seed: int = 0) -> ImageRef:
    """A random PNG of the given size."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, format="PNG")
    return ImageRef(name=f"{width}x{height}.png", load=stream.getvalue)
