"""Heads of attention: how many a model has, and the module that projects their joined outputs back to the residual stream."""

from dataclasses import dataclass
from typing import Any, Final

from steercache.core.errors import UsageError

PROJECTIONS: Final = (  # of a block, by the names that the classes of transformers give them
    "self_attn.o_proj",
    "attn.c_proj",
    "attention.dense",
    "self_attention.dense",
    "self_attn.dense",
    "self_attn.out_proj",
    "attn.out_proj",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """`n` heads with outputs of `width` each; what they give side by side is the input of the output projection."""

    n: int
    width: int

    @property
    def joined(self) -> int:
        """Width of all heads' outputs side by side: that of the site `head_out`."""
        return self.n * self.width


def heads_of(config: Any) -> Heads:
    """The heads of a model's text part, from transformers' configuration.

    Raises:
        UsageError: it names no heads (a state-space model), or its layers have heads of different widths.
    """
    text = config.get_text_config()
    if {"head_dim", "num_attention_heads"} & set(getattr(text, "per_layer_attributes", None) or ()):  # Gemma 4
        raise _without(text, "its layers have heads of different widths")
    n = getattr(text, "num_attention_heads", None)
    if not isinstance(n, int) or n < 1:
        raise _without(text, "its configuration names no number of attention heads")
    width = getattr(text, "v_head_dim", None) or getattr(text, "head_dim", None) or text.hidden_size // n
    if getattr(text, "global_head_dim", None) not in (None, width):
        raise _without(text, "its layers have heads of different widths")
    return Heads(n=n, width=int(width))


def head_projection(block: Any, *, heads: Heads, layer: int) -> str:
    """The path, from a block, of the module whose input is its heads' outputs side by side.

    Raises:
        UsageError: the block has no attention with one output projection, one of another width, or one of which this process
            has a part (tensor parallelism).
    """
    for path in PROJECTIONS:
        module: Any = block
        for name in path.split("."):
            module = getattr(module, name, None)
        if module is None:
            continue
        if hasattr(getattr(module, "weight", None), "device_mesh"):  # a DTensor
            raise UsageError(
                "the model is spread by tensor parallelism: each process has the outputs of some of its heads only",
                hint="load it without `tp_plan`; `device_map` spreads whole blocks over devices",
            )
        width = _input_width(module)
        if width not in (None, heads.joined):
            raise UsageError(
                f"block {layer} joins {width} values of its heads, and {heads.n} heads of {heads.width} have {heads.joined}",
                hint="the site attn_out, where the model has it",
            )
        return path
    parts = ", ".join(name for name, _ in block.named_children())
    raise UsageError(
        f"block {layer} has no attention with one output projection, so there is no head_out (it has {parts})",
        hint="choose other layers, or the site attn_out where the model has it",
    )


def _input_width(module: Any) -> int | None:
    """Width of what a projection reads: of a Linear layer of any kind, or of GPT-2's transposed one."""
    if hasattr(module, "in_features"):
        return int(module.in_features)
    return int(module.weight.shape[0]) if type(module).__name__ == "Conv1D" else None


def _without(config: Any, why: str) -> UsageError:
    return UsageError(
        f"a model of type {config.model_type!r} has no site head_out: {why}",
        hint="the site attn_out, where it has that",
    )
