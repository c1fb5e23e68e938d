"""Rotary scaling that depends on length: which samples may share a forward pass.

transformers chooses the angles of a whole batch by its longest sample (`modeling_rope_utils.dynamic_rope_update`). So samples
run together only where that choice is one and the same; what a sample gives is then what it gives alone.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from steercache.models.spec import LoadedModel, TokenizerBundle

LengthRule = Callable[[int], Hashable]

STATIC: Final = frozenset({"default", "linear", "yarn", "llama3", "proportional"})  # fixed when the model is made


def any_length(n_tokens: int) -> Hashable:
    """The rule of models whose angles do not depend on length: all samples may run together."""
    return None


def alone(n_tokens: int) -> Hashable:
    """The rule under which no two samples run together."""
    return object()


def length_rule(bundle: TokenizerBundle, *, n_new: int = 0) -> LengthRule:
    """A function of a sample's number of tokens: samples with equal values may share a batch.

    `n_new` tokens are decoded after each prompt at most; prompts that would cross a threshold meanwhile run with their equals.
    """
    config = bundle.config.get_text_config()
    dependent = [p for p in _rope_parameters(config) if p["rope_type"] not in STATIC]
    if not dependent:
        return any_length
    if bundle.family.positions == "internal":  # the largest position depends on the pictures, not on the length
        return alone
    choices = [_choice(parameters, config) for parameters in dependent]
    start = int(bundle.family.positions == "one_based")

    def rule(n_tokens: int) -> Hashable:
        first, last = (tuple(choice(n_tokens + more) for choice in choices) for more in (start, start + n_new))
        return first if first == last else n_tokens

    return rule


def _choice(parameters: Mapping[str, Any], config: Any) -> LengthRule:
    """The value that decides the angles of a sequence, by its largest position plus one."""
    longest = int(config.max_position_embeddings)
    if parameters["rope_type"] == "longrope":
        original = int(parameters.get("original_max_position_embeddings") or longest)
        return lambda n: n > original
    if "dynamic" in parameters["rope_type"]:
        return lambda n: max(n, longest)
    return lambda n: n  # a type that this version does not know


def _rope_parameters(config: Any) -> list[Mapping[str, Any]]:
    """The rotary parameters of a text model: one for all layers, or one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    candidates = [found, *found.values()] if isinstance(found, Mapping) else []
    return [p for p in candidates if isinstance(p, Mapping) and "rope_type" in p]


def forget_lengths(loaded: LoadedModel) -> None:
    """Have "dynamic" rotary scaling begin anew: it keeps the angles of the longest sequence so far for shorter ones."""
    config = loaded.config.get_text_config()
    if not any("dynamic" in p["rope_type"] for p in _rope_parameters(config)):
        return
    for module in loaded.model.modules():
        for name in [n for n in vars(module) if n.endswith("max_seq_len_cached")]:
            prefix = name.removesuffix("max_seq_len_cached")
            setattr(module, name, module.original_max_seq_len)
            if (original := getattr(module, f"{prefix}original_inv_freq", None)) is not None:
                setattr(module, f"{prefix}inv_freq", original.clone())
