"""The row of a decoder that the table of families does not have, read from the structure of its transformers class.

Names come from what every causal language model of transformers has: as many blocks in one list as the configuration says
layers, `get_input_embeddings`, `get_output_embeddings`, and one norm beside the blocks. They are a proposal: `models.proof`
shows on the loaded model that they mean what they say, or refuses it.
"""

import inspect
from typing import Any, Final

import torch
from torch.nn import Module, ModuleList
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from steercache.core.errors import NotFoundError
from steercache.models.family import Family
from steercache.models.quiet import quiet

CAUSAL: Final = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
_AROUND_EMBEDDINGS: Final = ("embed", "per_layer", "proj")  # norms beside the blocks that are not behind the last one
_ATTENTION: Final = (
    "self_attn",
    "attn",
    "attention",
    "self_attention",
    "linear_attn",
    "mamba",
    "mixer",
    "temporal_block",
)
_MLP: Final = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "mlp_block")


def derive_family(config: Any) -> Family:
    """The row for a configuration, from its class built without memory for weights (torch's `meta` device).

    Raises:
        NotFoundError: it is not a decoder whose blocks, embedding, final norm and head can be found; the message says which.
    """
    kind = str(config.model_type)
    if kind not in CAUSAL or getattr(config, "vision_config", None) or getattr(config, "audio_config", None):
        raise _refused(kind, "transformers has no causal language model of this type that reads text alone")
    if getattr(config, "is_encoder_decoder", False):
        raise _refused(kind, "it is an encoder with a decoder, and its blocks read both")
    auto: Any = AutoModelForCausalLM
    with quiet(), torch.device("meta"):
        return family_of_model(auto.from_config(config))


def family_of_model(model: Any) -> Family:
    """The row for a causal language model of transformers, on any device.

    Raises:
        NotFoundError: its blocks, embedding, final norm or head cannot be found.
    """
    kind = str(model.config.model_type)
    names = {id(module): name for name, module in model.named_modules()}
    blocks = _blocks(model, kind)
    decoder_path = blocks.rpartition(".")[0]
    decoder = model.get_submodule(decoder_path)
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embed is None or id(embed) not in names:
        raise _refused(kind, "it has no input embedding")
    if head is None or id(head) not in names:
        raise _refused(kind, "it has no language-model head")
    if "past_key_values" not in inspect.signature(type(model).forward).parameters:
        raise _refused(kind, "its forward takes no `past_key_values`, by which a generated token is told from a prompt")
    norms = [name for name, child in decoder.named_children() if _is_norm(child)]
    final = [name for name in norms if not any(part in name for part in _AROUND_EMBEDDINGS)] or norms
    if len(final) != 1:
        found = ", ".join(norms) or "none"
        raise _refused(kind, f"beside its blocks there must be one norm, behind the last of them; found: {found}")
    children = [name for name, _ in model.get_submodule(blocks)[0].named_children()]
    return Family(
        name=kind,
        model_types=(kind,),
        blocks=blocks,
        embed=names[id(embed)],
        final_norm=f"{decoder_path}.{final[0]}",
        lm_head=names[id(head)],
        attn_out=next((name for name in _ATTENTION if name in children), ""),
        mlp_out=next((name for name in _MLP if name in children), ""),
        sdpa=bool(getattr(model, "_supports_sdpa", False)),
        positions="from_mask" if _takes_positions(model, decoder) else "internal",
        derived=True,
    )


def _blocks(model: Any, kind: str) -> str:
    n_layers = int(model.config.get_text_config().num_hidden_layers)
    lists: list[str] = [
        name for name, module in model.named_modules() if isinstance(module, ModuleList) and len(module) == n_layers
    ]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1 or "." not in outer[0]:
        found = ", ".join(outer) or "none"
        raise _refused(kind, f"one list of {n_layers} blocks is looked for, and found: {found}")
    return outer[0]


def _is_norm(module: Module) -> bool:
    return "norm" in type(module).__name__.lower() and not list(module.children())


def _takes_positions(model: Any, decoder: Module) -> bool:
    return all("position_ids" in inspect.signature(type(one).forward).parameters for one in (model, decoder))


def _refused(kind: str, why: str) -> NotFoundError:
    return NotFoundError(
        f"models of type {kind!r} are not in the table of families, and cannot be derived from their class: {why}",
        hint="choose another model, or add a row to steercache/models/families.py",
    )
