"""Random models of text and multimodal families as LoadedModel, with batches that are padded on either side."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedTokenizerFast

from steercache.models.family import Family
from steercache.models.recognise import evidence_of
from steercache.models.spec import LoadedModel, ModelSpec, TokenizerBundle
from steercache.trace.batches import PaddedBatch
from tests.models import tiny_gemma3n

WIDTH, VOCAB, IMAGE_ID = 32, 97, 90
N_LAYERS = 4
DECODER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LOCAL = {"sliding_window": 5, "query_pre_attn_scalar": 8}
_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
_GEMMA4 = {  # the last block reads the keys of the one below, and all get per-layer inputs, as in E2B and E4B
    "sliding_window": 5,
    "global_head_dim": 8,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "full_attention"],
    "num_kv_shared_layers": 1,
    "vocab_size_per_layer_input": 97,
    "hidden_size_per_layer_input": 8,
    "use_double_wide_mlp": True,
    "final_logit_softcapping": 30.0,
}
_GEMMA3N = {  # the last block reads the keys of the one below; sparse and dense blocks, as in E2B and E4B
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "full_attention"],
    "num_kv_shared_layers": 1,
    "vocab_size_per_layer_input": 97,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    "final_logit_softcapping": 30.0,
}
_GEMMA4_LARGE = _GEMMA4 | {  # as in 26B-A4B
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "use_double_wide_mlp": False,
    "use_bidirectional_attention": "vision",
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 16,
}
_GEMMA4_VISION = _VISION | {
    "model_type": "gemma4_vision",
    "num_key_value_heads": 2,
    "head_dim": 8,
    "patch_size": 4,
    "pooling_kernel_size": 2,
    "position_embedding_size": 16,
    "standardize": True,
}
_GEMMA4_IDS = {"image_token_id": IMAGE_ID, "video_token_id": IMAGE_ID + 1, "audio_token_id": IMAGE_ID + 2}
TEXT: dict[str, dict[str, Any]] = {
    "llama": DECODER,
    "mistral": DECODER | {"sliding_window": 5},
    "qwen2": DECODER,
    "qwen3": DECODER,
    "gemma2": DECODER | _LOCAL,
    "gemma3_text": DECODER | _LOCAL,
    "gemma4_text": DECODER | _GEMMA4,
    "gemma3n_text": DECODER | _GEMMA3N,
    "gpt2": {"n_embd": WIDTH, "n_layer": N_LAYERS, "n_head": 4, "vocab_size": VOCAB, "n_positions": 64}
    | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "gpt_neox": {k: v for k, v in DECODER.items() if k not in ("num_key_value_heads", "head_dim")},
}
IMAGE: dict[str, dict[str, Any]] = {
    "paligemma": {
        "text_config": DECODER | _LOCAL | {"model_type": "gemma2"},
        "vision_config": _VISION | {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8},
        "projection_dim": WIDTH,
        "image_token_index": IMAGE_ID,
    },
    "gemma3": {
        "text_config": DECODER | _LOCAL | {"model_type": "gemma3_text"},
        "vision_config": _VISION | {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8},
        "mm_tokens_per_image": 4,
        "image_token_index": IMAGE_ID,
    },
    "gemma3n": {
        "text_config": DECODER | _GEMMA3N | {"model_type": "gemma3n_text"},
        "vision_config": tiny_gemma3n.vision(hidden_size=16, patch=8, vocab_offset=IMAGE_ID),
        "audio_config": tiny_gemma3n.SOUND | {"vocab_offset": IMAGE_ID + 4, "vocab_size": 3},
        "vision_soft_tokens_per_image": 4,
        "audio_soft_tokens_per_image": 6,
        "image_token_id": IMAGE_ID,
        "audio_token_id": IMAGE_ID + 4,
    },
    "gemma4": {
        "text_config": DECODER | _GEMMA4 | {"model_type": "gemma4_text"},
        "vision_config": _GEMMA4_VISION,
        "audio_config": None,
        **_GEMMA4_IDS,
    },
    "gemma4 large": {
        "model_type": "gemma4",
        "text_config": DECODER | _GEMMA4_LARGE | {"model_type": "gemma4_text"},
        "vision_config": _GEMMA4_VISION,
        "audio_config": None,
        **_GEMMA4_IDS,
    },
    "llava": {
        "text_config": DECODER | {"model_type": "llama"},
        "vision_config": _VISION
        | {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, "projection_dim": 16},
        "image_token_index": IMAGE_ID,
        "vision_feature_layer": -1,
        "image_seq_length": 4,
    },
    "llava_onevision": {  # a view is one patch: the whole picture small, two views side by side, and the end of their line
        "text_config": DECODER | {"model_type": "qwen2"},
        "vision_config": _VISION
        | {"model_type": "siglip_vision_model", "image_size": 8, "patch_size": 8, "vision_use_head": False},
        "image_token_index": IMAGE_ID,
        "video_token_index": IMAGE_ID + 1,
        "image_grid_pinpoints": [[8, 16]],
    },
    "qwen2_5_vl": {
        "text_config": DECODER
        | {"model_type": "qwen2_5_vl_text", "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        "vision_config": {"hidden_size": 16, "intermediate_size": 24, "depth": 1, "num_heads": 2, "patch_size": 4}
        | {"out_hidden_size": WIDTH, "spatial_merge_size": 2, "temporal_patch_size": 1, "fullatt_block_indexes": [0]},
        "image_token_id": IMAGE_ID,
        "video_token_id": IMAGE_ID + 1,
        "vision_start_token_id": IMAGE_ID + 2,
    },
    "idefics3": {
        "text_config": DECODER | {"model_type": "llama"},
        "vision_config": _VISION | {"model_type": "idefics3_vision", "image_size": 16, "patch_size": 4},
        "scale_factor": 2,
        "image_token_id": IMAGE_ID,
    },
}
_GRID: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "depth": 2, "num_heads": 2, "patch_size": 4} | {
    "out_hidden_size": WIDTH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 1,
}
_PLACES = {"num_position_embeddings": 16}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}


def _gridded(vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Sizes of a family whose pictures are grids of patches with positions in time, height and width."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}
    marks = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        "text_config": DECODER | {"rope_parameters": rope} | text,
        "vision_config": _GRID | vision,
        **{name: IMAGE_ID + i for i, name in enumerate(marks)},
    }


IMAGE |= {
    "qwen2_vl": _gridded({"embed_dim": 16, "hidden_size": WIDTH, "mlp_ratio": 2}, {}),
    "qwen3_vl": _gridded(_PLACES | {"deepstack_visual_indexes": [0, 1]}, {}),
    "qwen3_vl_moe": _gridded(_PLACES | {"deepstack_visual_indexes": [0, 1]}, _EXPERTS),
    "glm4v": _gridded({"image_size": 16}, {}),
    "glm4v_moe": _gridded({"image_size": 16}, _ROUTED | {"first_k_dense_replace": 1}),
    "glm46v": _gridded({"image_size": 16}, {}),
}
DEEPSTACK = {"qwen3_vl": 2, "qwen3_vl_moe": 2}  # to the outputs of as many blocks the decoder adds features of pictures
IMAGE["llama4"] = {
    "text_config": DECODER
    | {"model_type": "llama4_text", "intermediate_size_mlp": 48, "attention_chunk_size": 5, "num_local_experts": 4}
    | {"num_experts_per_tok": 2, "no_rope_layers": [1, 1, 1, 0]},
    "vision_config": _VISION
    | {"image_size": 16, "patch_size": 4, "intermediate_size": 64, "projector_input_dim": 24}
    | {"projector_output_dim": 24, "vision_output_dim": 24},
    "image_token_index": IMAGE_ID,
}
IMAGE["molmo2"] = {  # a picture is one crop of 2 x 2 patches, each a token; three more embeddings than logits
    "text_config": DECODER | {"model_type": "molmo2_text", "additional_vocab_size": 3},
    "vision_config": _VISION | {"image_size": [16, 16], "patch_size": 8, "num_key_value_heads": 2, "head_dim": 8},
    "adapter_config": {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
        "text_hidden_size": WIDTH,
        "vision_feature_layer": [0],
    },
    "image_patch_id": IMAGE_ID,
}
EXPERTS = dict.fromkeys(("qwen3_vl_moe", "glm4v_moe", "llama4"), "num_experts_per_tok") | {
    "gemma4 large": "top_k_experts"
}
PICTURES_IN_BLOCKS = dict.fromkeys(
    ("gemma3n", "gemma4"), N_LAYERS
)  # as many blocks receive an input that is made of the pictures
_SIGLIP = _VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
_PIXTRAL = _VISION | {"model_type": "pixtral", "image_size": 16, "head_dim": 8}
IMAGE |= {
    "llava_next": IMAGE["llava_onevision"]
    | {"vision_config": _SIGLIP | {"image_size": 8, "patch_size": 8}, "vision_feature_select_strategy": "full"}
    | {"vision_feature_layer": -1, "text_config": DECODER | {"model_type": "mistral", "sliding_window": 5}},
    "pixtral": {
        "model_type": "llava",
        "text_config": DECODER | {"model_type": "mistral", "sliding_window": None},
        "vision_config": _PIXTRAL | {"patch_size": 8},
        "image_token_index": IMAGE_ID,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    },
    "mistral3": {
        "text_config": DECODER | {"model_type": "mistral", "sliding_window": None},
        "vision_config": _PIXTRAL | {"patch_size": 4},
        "image_token_index": IMAGE_ID,
    },
    "internvl": {
        "text_config": DECODER | {"model_type": "qwen2"},
        "vision_config": _VISION | {"model_type": "internvl_vision", "image_size": 16, "patch_size": 4},
        "image_token_id": IMAGE_ID,
    },
    "idefics2": {
        "text_config": DECODER | {"model_type": "mistral", "sliding_window": None},
        "vision_config": _VISION | {"image_size": 16, "patch_size": 8},
        "perceiver_config": {"hidden_size": WIDTH, "resampler_n_latents": 4, "resampler_depth": 1}
        | {"resampler_n_heads": 4, "resampler_head_dim": 8, "num_key_value_heads": 2},
        "image_token_id": IMAGE_ID,
    },
    "aya_vision": {
        "text_config": DECODER | {"model_type": "cohere2", "sliding_window": 5},
        "vision_config": _SIGLIP | {"image_size": 16, "patch_size": 4},
        "image_token_index": IMAGE_ID,
        "downsample_factor": 2,
    },
}
# Over text models, or with masks, for which others stand by default.
_ALONE = (
    "molmo2",
    "gemma3n",
    "gemma3n_text",
    "llava_next",
    "pixtral",
    "mistral3",
    "internvl",
    "idefics2",
    "aya_vision",
    "gemma4 large",
    "llama4",
)
FAMILIES = [pytest.param(name, marks=[pytest.mark.slow] if name in _ALONE else []) for name in (*TEXT, *IMAGE)]
HYBRID = ("qwen3_5", "qwen3_5_moe")  # state that cannot be branched
IMAGE |= {
    "qwen3_5": _gridded(_PLACES, _LINEAR),
    "qwen3_5_moe": _gridded(_PLACES, _LINEAR | _EXPERTS | {"shared_expert_intermediate_size": 16}),
}
GRIDS = ("qwen2_5_vl", *(family for family in IMAGE if family.startswith(("qwen2_vl", "qwen3", "glm"))))
N_PATCHES = 4


def small_model(family: str, dtype: torch.dtype = torch.float32, *, seed: int = 0, **changes: Any) -> LoadedModel:
    """A random model in eval mode; weights spread enough that answers differ between prompts."""
    torch.manual_seed(seed)
    sizes = (TEXT.get(family) or IMAGE[family]) | changes
    auto: Any = AutoModelForImageTextToText if family in IMAGE else AutoModelForCausalLM
    config = AutoConfig.for_model(**{"model_type": family, **sizes})
    if dtype == torch.float64 and family in EXPERTS:
        config.text_config._experts_implementation = "eager"  # torch's grouped product is float32 or less
    model = auto.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.25 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith(("layer_scalar", "std_bias", "std_scale")):  # Gemma 4
            buffer.data = 1 + 0.25 * torch.randn_like(buffer)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():  # `model.to` would make the complex angles of Llama 4's tower real
            tensor.data = tensor.data.to(dtype)
    model = model.eval().requires_grad_(False)
    family_row, evidence = evidence_of(model)
    return LoadedModel(model=model, bundle=_bundle(model, family_row), evidence=evidence)


def _bundle(model: Any, family: Family) -> TokenizerBundle:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )
    spec = ModelSpec(
        name="small",
        model_id="small",
        fingerprint="f" * 64,
        family=family.name,
        modality=family.modality,
        backbone=None,
        n_layers=N_LAYERS,
        hidden_size=WIDTH,
        vision_size=None,
        vocab_size=VOCAB,
        dtype="bfloat16" if model.dtype == torch.bfloat16 else "float32",
        attention="sdpa",
        tokenizer_digest="t" * 64,
    )
    return TokenizerBundle(
        tokenizer=tokenizer,
        config=model.config,
        family=family,
        spec=spec,
        special_ids=(0, 1, 2),
    )


def padded_batch(
    family: str,
    *,
    side: str = "left",
    lengths: tuple[int, ...] = (9, 12, 7),
    dtype: torch.dtype = torch.float32,
    seed: int = 3,
) -> PaddedBatch:
    """Prompts of several lengths; in multimodal families each begins (after BOS) with its picture's tokens."""
    rng = np.random.default_rng(seed)
    width = max(lengths)
    ids = np.zeros((len(lengths), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    starts = tuple(width - n if side == "left" else 0 for n in lengths)
    for i, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        row = rng.integers(3, 80, size=n)
        row[0] = 1
        if family in IMAGE:
            row[1 : 1 + N_PATCHES] = IMAGE_ID
        ids[i, start : start + n] = row
        mask[i, start : start + n] = 1
    mask_bt = torch.from_numpy(mask)
    generator = torch.Generator().manual_seed(seed)
    extra: dict[str, torch.Tensor] = {}
    pixels: dict[str, torch.Tensor] = {}
    is_image = torch.from_numpy(ids == IMAGE_ID).long()
    if family in ("paligemma", "gemma3", "gemma3n", "llava", "pixtral", "mistral3", "internvl", "aya_vision", "llama4"):
        pixels["pixel_values"] = torch.randn(len(lengths), 3, 16, 16, generator=generator)
    if family == "paligemma":
        extra["token_type_ids"] = torch.zeros_like(mask_bt)  # the whole prompt is its prefix
    if family == "gemma3":
        extra["token_type_ids"] = is_image
    if family.startswith("gemma4") and family in IMAGE:  # a view of 4 x 4 patches, pooled 2 x 2
        extra["mm_token_type_ids"] = is_image
        places = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="xy"), dim=-1).reshape(16, 2)
        pixels["pixel_values"] = torch.rand(len(lengths), 16, 3 * 4 * 4, generator=generator)
        pixels["image_position_ids"] = places.repeat(len(lengths), 1, 1)
    if family in ("pixtral", "mistral3"):
        pixels["image_sizes"] = torch.tensor([[16, 16]] * len(lengths))
    if family in ("idefics2", "idefics3"):
        pixels["pixel_values"] = torch.randn(len(lengths), 1, 3, 16, 16, generator=generator)
    if family in ("llava_onevision", "llava_next"):
        pixels["pixel_values"] = torch.randn(len(lengths), 3, 3, 8, 8, generator=generator)
        pixels["image_sizes"] = torch.tensor([[8, 16]] * len(lengths))
    if family == "llava_onevision":
        pixels["batch_num_images"] = torch.ones(len(lengths), dtype=torch.long)
    if family == "molmo2":
        n = len(lengths)
        extra["mm_token_type_ids"] = is_image
        pixels["pixel_values"] = torch.randn(n, N_PATCHES, 3 * 8 * 8, generator=generator)
        pixels["image_token_pooling"] = torch.arange(n * N_PATCHES)[:, None]
        pixels["image_grids"] = torch.tensor([[2, 2, 0, 0]] * n)
        pixels["image_num_crops"] = torch.ones(n, dtype=torch.long)
    if family in GRIDS:
        extra["mm_token_type_ids"] = is_image
        pixels["pixel_values"] = torch.randn(len(lengths) * 16, 3 * 4 * 4, generator=generator)
        pixels["image_grid_thw"] = torch.tensor([[1, 4, 4]] * len(lengths))
    return PaddedBatch(
        input_ids=torch.from_numpy(ids),
        attention_mask=mask_bt,
        starts=starts,
        lengths=lengths,
        position_ids=(mask_bt.cumsum(1) - 1).clamp(min=0) if any(starts) else None,
        extra=extra,
        pixels={name: x.to(dtype) if x.is_floating_point() else x for name, x in pixels.items()},
        image_digests=tuple((f"{i:064x}",) if pixels else () for i in range(len(lengths))),
    )


def directions(n: int, *, scale: float = 1.0, seed: int = 11) -> np.ndarray[Any, Any]:
    """Random vectors (n, d), float32."""
    return (np.random.default_rng(seed).normal(size=(n, WIDTH)) * scale).astype(np.float32)
