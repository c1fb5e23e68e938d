"""Which family a model is of: a row of the table, or one derived from its class and proven on the model itself."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from steercache.core.errors import NotFoundError
from steercache.models.derive import CAUSAL, derive_family, family_of_model
from steercache.models.families import family_of, is_known, text_type
from steercache.models.family import Evidence, Family, find_module
from steercache.models.proof import prove

_proven: "WeakKeyDictionary[Any, tuple[Family, tuple[Evidence, ...]]]" = WeakKeyDictionary()


def may_be_derived(config: Mapping[str, Any]) -> bool:
    """Whether transformers has a causal language model of this type, for a checkpoint's `config.json`; of one that reads
    pictures and is in the table, whether it has one of its text model's type."""
    text = text_type(config)
    if text is not None:
        return text in CAUSAL
    return config.get("model_type") in CAUSAL and not {"vision_config", "audio_config"} & set(config)


def family_of_config(config: Any) -> Family:
    """The row for transformers' configuration of a model that is not in memory. A derived row is a proposal yet, and so is one
    of the table around a derived text model.

    Raises:
        NotFoundError: its type is not in the table and cannot be derived.
    """
    written = config.to_dict()
    if is_known(written):
        return family_of(written)
    if text_type(written) is None:
        return derive_family(config)
    return family_of(written, text=derive_family(config.get_text_config()))


def proven_family(model: Any) -> Family:
    """The row for a transformers model in memory; one that is derived is proven on it, once for each model.

    Raises:
        NotFoundError: its type is not in the table, and it cannot be derived or does not prove right.
    """
    return evidence_of(model)[0]


def evidence_of(model: Any) -> tuple[Family, tuple[Evidence, ...]]:
    """As `proven_family`, with what was seen; a row of the table needs none."""
    written = model.config.to_dict()
    if is_known(written):
        return family_of(written), ()
    if model not in _proven:
        _proven[model] = prove(model, _proposed(model, written))
    return _proven[model]


def _proposed(model: Any, written: Mapping[str, Any]) -> Family:
    """The row of a model in memory that the table has not, or has around another text model. Raises as `proven_family`."""
    if text_type(written) is not None:
        row = family_of_config(model.config)
        find_module(model, row.blocks)
        return row
    if getattr(model, "peft_config", None) is not None or model.get_output_embeddings() is None:
        raise NotFoundError(
            f"{type(model).__name__} cannot be derived: it is an adapter or has no language-model head",
            hint="merge the adapter, or load the model with AutoModelForCausalLM",
        )
    return family_of_model(model)
