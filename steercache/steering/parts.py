"""The modules of a model that steering touches, and the token ids that targets need."""

from dataclasses import dataclass
from typing import Any

from steercache.core.errors import UsageError
from steercache.models.family import Family, find_module
from steercache.models.recognise import proven_family
from steercache.models.sharing import KeySharing, key_sharing
from steercache.models.spec import LoadedModel
from steercache.models.streams import active_stream
from steercache.models.tokenizers import special_ids
from steercache.models.video_settings import video_marks
from steercache.steering.targets import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """The modules of a model that steering touches, and the ids that targets need. `tuples`: its blocks return tuples;
    `sharing` says which of them make keys and values, `stream` which of several residual streams is the hidden state."""

    model: Any
    family: Family
    decoder: Any
    blocks: Any
    hidden_size: int
    tuples: bool
    sharing: KeySharing
    vocabulary: Vocabulary
    stream: int | None = None


def parts_of(model: Any, *, tokenizer: Any = None) -> ModelParts:
    """Find blocks and special ids of a LoadedModel or a transformers model.

    Without a tokenizer the special ids of a plain model are those that its configuration names: bos, eos, pad.

    Raises:
        NotFoundError: the model's type is not in the table of families and cannot be derived and proven (`models.recognise`).
    """
    if isinstance(model, LoadedModel):
        module, family, special = model.model, model.family, set(model.bundle.special_ids)
        tokenizer = model.tokenizer
    else:
        if not hasattr(model, "config"):
            raise UsageError(f"a {type(model).__name__} cannot be steered: give a transformers model or a LoadedModel")
        module, family = model, proven_family(model)
        special = _configured_ids(model.config) if tokenizer is None else set(special_ids(tokenizer, family))
    text_config = module.config.get_text_config()
    blocks = find_module(module, family.blocks)  # first, since its error says most
    return ModelParts(
        model=module,
        family=family,
        decoder=find_module(module, family.blocks.rpartition(".")[0]),
        blocks=blocks,
        hidden_size=int(text_config.hidden_size),
        tuples=family.tuples,
        sharing=key_sharing(module.config),
        stream=active_stream(family, module.config),
        vocabulary=Vocabulary(
            special_ids=frozenset(special), tokenizer=tokenizer, **_placeholder_ids(module.config, family)
        ),
    )


def _configured_ids(config: Any) -> set[int]:
    found: set[int] = set()
    for holder in (config, config.get_text_config()):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(holder, name, None)
            found.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return found


def _placeholder_ids(config: Any, family: Family) -> dict[str, Any]:
    """Ids of the tokens that stand for pictures, videos and sounds, as far as a configuration names them."""
    found = {f"{kind}_id": getattr(config, f"{kind}_token_id", None) for kind in ("image", "video", "audio")}
    ids = {name: int(token) for name, token in found.items() if token is not None}
    return {**ids, "video_marks": video_marks(family, config)}
