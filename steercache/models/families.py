"""The table of model families: where in a checkpoint's class the residual stream can be read.

Rows of data, no class tree. A row holds names only, so that this module imports neither torch nor transformers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steercache.core.errors import NotFoundError
from steercache.models.family import Family

_TURNS = ("<(start|end)_of_turn>",)  # some Gemma tokenizers do not mark them
_IDEFICS_MARKS = ("<fake_token_around_image>", "<global-img>", r"<row_\d+_col_\d+>")
_PIXTRAL_MARKS = (r"\[IMG_(BREAK|END)\]",)

_GEMMA3N = ("<(start|end)_of_(image|audio|turn)>",)
_GEMMA4 = (r"<\|?(turn|channel|think|tool|tool_call|tool_response|image|audio|video)\|?>",)

_TEXT = (
    Family(name="llama", model_types=("llama",)),
    Family(name="mistral", model_types=("mistral",)),
    Family(name="qwen2", model_types=("qwen2", "qwen2_vl_text", "qwen2_5_vl_text")),
    Family(name="qwen3", model_types=("qwen3", "qwen3_vl_text", "qwen3_vl_moe_text")),
    Family(name="gemma", model_types=("gemma",), special_tokens=_TURNS),
    Family(
        name="gemma2",
        model_types=("gemma2",),
        special_tokens=_TURNS,
        sdpa=False,
        attn_out="post_attention_layernorm",
        mlp_out="post_feedforward_layernorm",
    ),
    Family(
        name="gemma3_text",
        model_types=("gemma3_text",),
        special_tokens=_TURNS,
        attn_out="post_attention_layernorm",
        mlp_out="post_feedforward_layernorm",
    ),
    Family(
        name="gemma4_text",
        model_types=("gemma4_text",),
        attn_out="",  # a third summand, from the per-layer input, and a scale of the sum
        mlp_out="",
        special_tokens=_GEMMA4,
    ),
    Family(
        name="gemma3n_text",
        model_types=("gemma3n_text",),
        stream="altup_active_idx",
        attn_out="",  # two more summands (LAuReL, the per-layer input), of a prediction made of all streams
        mlp_out="",
        special_tokens=_GEMMA3N,
    ),
    Family(
        name="gpt2",
        model_types=("gpt2",),
        blocks="transformer.h",
        embed="transformer.wte",
        final_norm="transformer.ln_f",
        attn_out="attn",
    ),
    Family(
        name="gpt_neox",
        model_types=("gpt_neox",),
        blocks="gpt_neox.layers",
        embed="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        attn_out="attention",
    ),
)

_LLAVA = Family(
    name="llava",
    model_types=("llava",),
    modality="image",
    blocks="model.language_model.layers",
    embed="model.language_model.embed_tokens",
    final_norm="model.language_model.norm",
    vision="model.vision_tower",
    connector="model.multi_modal_projector",
    patches="square",
    needs=("pixel_values",),
)

_MULTIMODAL = (
    replace(_LLAVA, text_logits=False),
    replace(
        _LLAVA,
        name="llava_onevision",
        text_logits=False,
        model_types=("llava_onevision",),
        patches="anyres",
        needs=("pixel_values", "image_sizes", "batch_num_images"),
    ),
    replace(
        _LLAVA,
        name="paligemma",  # and PaliGemma2: the same class over Gemma2
        model_types=("paligemma",),
        positions="one_based",
        needs=("pixel_values",),
        token_types=("token_type_ids", "suffix"),
        text_beside_pictures=True,
        bos_in_text=True,
    ),
    replace(
        _LLAVA,
        name="gemma3",
        model_types=("gemma3",),
        special_tokens=("<(start|end)_of_(image|turn)>",),
        needs=("pixel_values",),
        token_types=("token_type_ids", "image"),
    ),
    replace(
        _LLAVA,
        name="gemma3n",
        model_types=("gemma3n",),
        attn_out="",
        mlp_out="",
        stream="altup_active_idx",
        special_tokens=_GEMMA3N,
        connector="model.embed_vision.soft_embedding_norm",  # what is around it also embeds token ids
        patches="square_lines",
        audio="{audio}",
        audio_needs=("input_features", "input_features_mask"),
        frames_per_token=16,  # two steps of each of two convolutions, and every fourth row behind the encoder
    ),
    replace(
        _LLAVA,
        name="gemma4",
        model_types=("gemma4",),
        attn_out="",
        mlp_out="",
        special_tokens=_GEMMA4,
        connector="model.embed_vision",
        patches="pooled",
        needs=("pixel_values", "image_position_ids"),
        token_types=("mm_token_type_ids", "image"),
        audio="{audio}",
        audio_needs=("input_features", "input_features_mask"),
        frames_per_token=4,  # two steps of each of two convolutions
    ),
    Family(
        name="idefics3",
        model_types=("idefics3", "smolvlm"),
        modality="image",
        blocks="model.text_model.layers",
        embed="model.text_model.embed_tokens",
        final_norm="model.text_model.norm",
        vision="model.vision_model",
        connector="model.connector",
        special_tokens=_IDEFICS_MARKS,
        patches="tiles",
        needs=("pixel_values", "pixel_attention_mask"),
        text_logits=False,
    ),
)

_VIDEO = "<|vision_start|>{video}<|vision_end|>"
_QWEN2_5_VL = replace(
    _LLAVA,
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    positions="internal",
    vision="model.visual",
    connector="model.visual.merger",
    special_tokens=(r"<\|vision_(start|end)\|>",),
    patches="merged",
    needs=("pixel_values", "image_grid_thw"),
    token_types=("mm_token_type_ids", "image"),
    placeholder="<|vision_start|>{image}<|vision_end|>",
    video=_VIDEO,
    frames="clocked",
)

_QWEN3_VL = replace(
    _QWEN2_5_VL,
    name="qwen3_vl",
    model_types=("qwen3_vl",),
    deepstack="deepstack_visual_indexes",
    frames="timed",
)

_GLM4V = replace(
    _QWEN2_5_VL,
    name="glm4v",
    model_types=("glm4v",),
    special_tokens=(r"<\|(begin|end)_of_(image|video)\|>",),
    patches="downsampled",
    tower_width="out_hidden_size",
    placeholder="<|begin_of_image|>{image}<|end_of_image|>",
    video="<|begin_of_video|>{video}<|end_of_video|>",
    frames="numbered",
)

_POSITIONED = (  # tokens of pictures have positions in time, height and width
    replace(_QWEN2_5_VL, name="qwen2_vl", model_types=("qwen2_vl",), tower_width="embed_dim", frames="joined"),
    _QWEN2_5_VL,
    _QWEN3_VL,
    replace(_QWEN3_VL, name="qwen3_vl_moe", model_types=("qwen3_vl_moe",)),
    replace(_QWEN2_5_VL, name="qwen3_5", model_types=("qwen3_5",), frames="timed"),
    replace(_QWEN2_5_VL, name="qwen3_5_moe", model_types=("qwen3_5_moe",), frames="timed"),
    _GLM4V,
    replace(_GLM4V, name="glm4v_moe", model_types=("glm4v_moe",)),
    replace(_GLM4V, name="glm46v", model_types=("glm46v",), frames="seconds"),
)

_TILED = (
    replace(
        _LLAVA,
        name="llava_next",
        model_types=("llava_next",),
        text_logits=False,
        patches="anyres",
        needs=("pixel_values", "image_sizes"),
    ),
    replace(
        _LLAVA,
        name="pixtral",  # the class of LLaVA around another vision tower
        model_types=("llava/pixtral",),
        special_tokens=_PIXTRAL_MARKS,
        text_logits=False,
        patches="lines",
        needs=("pixel_values", "image_sizes"),
    ),
    replace(
        _LLAVA,
        name="mistral3",
        model_types=("mistral3",),
        special_tokens=_PIXTRAL_MARKS,
        text_logits=False,
        patches="lines",
        needs=("pixel_values", "image_sizes"),
    ),
    replace(
        _LLAVA,
        name="internvl",
        model_types=("internvl",),
        special_tokens=("</?img>",),
        text_logits=False,
        patches="crops",
        text_beside_pictures=True,
    ),
    Family(
        name="idefics2",
        model_types=("idefics2",),
        modality="image",
        blocks="model.text_model.layers",
        embed="model.text_model.embed_tokens",
        final_norm="model.text_model.norm",
        vision="model.vision_model",
        connector="model.connector",
        special_tokens=_IDEFICS_MARKS,
        text_logits=False,
        patches="resampled",
        needs=("pixel_values", "pixel_attention_mask"),
        shared_mark="<fake_token_around_image>",
    ),
    replace(
        _LLAVA,
        name="aya_vision",
        model_types=("aya_vision",),
        special_tokens=(r"<\|(START|END)_OF_IMG\|>", r"<\|IMG_LINE_BREAK\|>", r"TILE_(\d+|GLOBAL)"),
        text_logits=False,
        patches="crops",
    ),
)

_LLAMA4 = (
    Family(
        name="llama4",
        model_types=("llama4",),
        modality="image",
        blocks="language_model.model.layers",
        embed="language_model.model.embed_tokens",
        final_norm="language_model.model.norm",
        attn_out="",
        mlp_out="",
        lm_head="language_model.lm_head",
        vision="vision_model",
        connector="multi_modal_projector",
        tower_width="vision_output_dim",
        special_tokens=(r"<\|(image|image_start|image_end|tile_x_separator|tile_y_separator)\|>",),
        patches="tile_lines",
        tiles_joined=True,
        needs=("pixel_values",),
        text_beside_pictures=True,
    ),
)

_MOLMO2 = (
    replace(
        _LLAVA,
        name="molmo2",
        model_types=("molmo2",),
        text_logits=False,
        special_tokens=(r"<\|?(image|video)\|?>", r"<(im|low_res_im|frame)_(start|end|col|patch|low)>"),
        patches="overlapping",
        needs=("pixel_values", "image_token_pooling", "image_grids", "image_num_crops"),
        token_types=("mm_token_type_ids", "marks"),
        marks=(
            "<im_col>",
            "<im_start>",
            "<low_res_im_start>",
            "<frame_start>",
            "<im_end>",
            "<frame_end>",
            "<im_low>",
        ),
        bos_before=True,
    ),
)

_AUDIO = (
    Family(
        name="qwen2_audio",
        model_types=("qwen2_audio",),
        modality="audio",
        blocks="model.language_model.layers",
        embed="model.language_model.embed_tokens",
        final_norm="model.language_model.norm",
        special_tokens=(r"<\|(AUDIO|audio_bos|audio_eos)\|>",),
        audio_needs=("input_features", "feature_attention_mask"),
        audio="<|audio_bos|>{audio}<|audio_eos|>",
        frames_per_token=4,  # two steps of the convolution, two of the pooling
    ),
    Family(
        name="voxtral",
        model_types=("voxtral",),
        modality="audio",
        blocks="model.language_model.layers",
        embed="model.language_model.embed_tokens",
        final_norm="model.language_model.norm",
        special_tokens=(r"\[/?(AUDIO|BEGIN_AUDIO|INST|TRANSCRIBE|SYSTEM_PROMPT)\]",),
        audio_needs=("input_features",),
        audio="[BEGIN_AUDIO]{audio}",
        audio_chunks=True,
        text_logits=False,
        frames_per_token=8,  # two steps of the convolution, four rows side by side
    ),
)

FAMILIES: tuple[Family, ...] = _TEXT + _MULTIMODAL + _POSITIONED + _TILED + _LLAMA4 + _MOLMO2 + _AUDIO

# Text models that exist inside of multimodal ones only, or are derived where they stand alone.
_INNER = (
    Family(name="qwen3_5_text", model_types=("qwen3_5_text", "qwen3_5_moe_text"), attn_out="linear_attn|self_attn"),
    Family(
        name="glm4v_text",
        model_types=("glm4v_text",),
        attn_out="post_self_attn_layernorm",
        mlp_out="post_mlp_layernorm",
    ),
    Family(name="glm4v_moe_text", model_types=("glm4v_moe_text",)),
    Family(name="molmo2_text", model_types=("molmo2_text",)),
    Family(name="llama4_text", model_types=("llama4_text",), attn_out="", mlp_out=""),  # its experts return rows, flat
)

# What transformers takes the text model to be when a multimodal `config.json` does not say.
_DEFAULT_TEXT = {
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "glm4v": "glm4v_text",
    "glm4v_moe": "glm4v_moe_text",
    "glm46v": "glm4v_text",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "paligemma": "gemma",
    "llava_onevision": "qwen2",
    "pixtral": "mistral",
    "mistral3": "mistral",
    "internvl": "qwen2",
    "idefics2": "mistral",
    "aya_vision": "cohere2",
    "llama4": "llama4_text",
    "molmo2": "molmo2_text",
    "qwen2_audio": "qwen2",
    "voxtral": "llama",
}


def _find(model_type: str) -> Family | None:
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def _find_text(model_type: str) -> Family | None:
    return next((inner for inner in _INNER if model_type in inner.model_types), None) or _find(model_type)


def _row(model_type: str) -> Family:
    family = _find(model_type)
    if family is not None:
        return family
    types = (t for f in FAMILIES for t in f.model_types if not t.endswith(("_vl_text", "_moe_text")) and "/" not in t)
    raise NotFoundError(
        f"models of type {model_type!r} are not supported; these are: {', '.join(sorted(types))}",
        hint="choose a model of one of these types, or add a row to steercache/models/families.py",
    )


def _own_row(config: Mapping[str, Any]) -> Family:
    """The row of a configuration's type, without what its text model says; first that of its type with its vision tower's."""
    model_type, vision = config.get("model_type"), config.get("vision_config") or {}
    return _find(f"{model_type}/{vision.get('model_type')}") or _row(str(model_type))


def text_type(config: Mapping[str, Any]) -> str | None:
    """The type of the text model in a `config.json` that the table has as one that reads pictures; None for any other."""
    if _find(str(config.get("model_type"))) is None:
        return None
    family = _own_row(config)
    if family.modality == "text":
        return None
    return str((config.get("text_config") or {}).get("model_type", _DEFAULT_TEXT.get(family.name, "llama")))


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether the table has the `model_type` of a checkpoint's `config.json`, and that of its text model."""
    text = text_type(config)
    return _find(str(config.get("model_type"))) is not None and (text is None or _find_text(text) is not None)


def family_of(config: Mapping[str, Any], *, text: Family | None = None) -> Family:
    """The row for a checkpoint's `config.json`; a multimodal one with the parts of its text model, whose row is `text` where
    the table has none.

    Raises:
        NotFoundError: its `model_type` (or its text model's) is not in the table; the message lists those that are.
    """
    family, kind = _own_row(config), text_type(config)
    return family if kind is None else _around(family, text or _find_text(kind) or _row(kind))


def _around(family: Family, text: Family) -> Family:
    """A multimodal row with the parts of its text model, which it holds without the head."""
    inner = family.blocks.rpartition(".")[0]
    blocks, embed, norm = (f"{inner}.{path.partition('.')[2]}" for path in (text.blocks, text.embed, text.final_norm))
    return replace(
        family,
        blocks=blocks,
        embed=embed,
        final_norm=norm,
        attn_out=text.attn_out,
        mlp_out=text.mlp_out,
        sdpa=text.sdpa,
        tuples=text.tuples,
        stream=text.stream,
        positions="internal" if text.positions == "internal" else family.positions,
        derived=text.derived,
    )
