"""Token ids that end an answer: read once from a checkpoint's files, so that they are known without its weights."""

import json
from pathlib import Path
from typing import Any

from steercache.models.spec import LoadedModel

_FILE = "generation_config.json"


def read_end_ids(folder: Path, config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids of the generation config, of the model's configuration and of the tokenizer's end-of-sequence token, ascending.

    Without a generation config transformers takes the text model's ids where the whole model names none.
    """
    holders: list[Any] = [config, tokenizer]
    path = folder / _FILE
    if path.is_file():
        written = json.loads(path.read_bytes())
        named = written.get("eos_token_id") if isinstance(written, dict) else None
        return _ids([named, *(getattr(holder, "eos_token_id", None) for holder in holders)])
    if getattr(config, "eos_token_id", None) is None:
        holders.append(config.get_text_config())
    return _ids([getattr(holder, "eos_token_id", None) for holder in holders])


def end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Token ids that end an answer of this model; of a bundle that does not say, read from the model in memory."""
    if loaded.bundle.end_ids is not None:
        return frozenset(loaded.bundle.end_ids)
    holders = (getattr(loaded.model, "generation_config", None), loaded.bundle.config, loaded.tokenizer)
    return frozenset(_ids([getattr(holder, "eos_token_id", None) for holder in holders]))


def answer_identity(loaded: LoadedModel) -> dict[str, Any]:
    """What of a model moves an answer, beside prompt and steering: weights, compute dtype, tokenizer and processor, end ids."""
    spec = loaded.spec
    return {
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "dtype": spec.dtype,
        "preprocessing": spec.tokenizer_digest,
        "ends": sorted(end_ids(loaded)),
    }


def _ids(values: list[Any]) -> tuple[int, ...]:
    found: set[int] = set()
    for value in values:
        found.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return tuple(sorted(int(i) for i in found))
