"""Keys of `config.json` that transformers before version 5 reads, beside those that version 5 writes.

Version 5 saves rotary settings as `rope_parameters` and the dtype as `dtype`. Version 4 ignores both silently and
computes with its default `rope_theta`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

REPEATED: Final = "_repeated"  # lists the keys that repeat another key's value; a fingerprint leaves them out


def write_older_keys(folder: Path) -> None:
    """Add the older keys to the `config.json` of a folder that `save_pretrained` wrote."""
    path = folder / "config.json"
    config = with_older_keys(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def with_older_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, its text model's too, with the keys of version 4; what it says itself is kept."""
    found = {key: with_older_keys(value) if key == "text_config" else value for key, value in config.items()}
    added = {key: value for key, value in _rope_keys(config.get("rope_parameters")).items() if key not in config}
    if added:
        found |= added | {REPEATED: sorted(added)}
    if config.get("dtype") is not None:
        found.setdefault("torch_dtype", config["dtype"])
    return found


def repeats_in(config: Mapping[str, Any]) -> frozenset[str]:
    """Keys that a configuration lists as repeats, and that do repeat its `rope_parameters`.

    Version 5, too, computes with such a key where there are no `rope_parameters`: it is no repeat then, whatever the list says.
    """
    listed, said = config.get(REPEATED), _rope_keys(config.get("rope_parameters"))
    names = listed if isinstance(listed, list) else []
    return frozenset(key for key, value in said.items() if key in names and config.get(key) == value)


def _rope_keys(rope: Any) -> dict[str, Any]:
    if not isinstance(rope, Mapping):
        return {}
    if isinstance(rope.get("full_attention"), Mapping):  # Gemma 3: one setting for each kind of layer
        local = rope.get("sliding_attention") or {}
        kinds = {"rope_theta": rope["full_attention"], "rope_local_base_freq": local}
        return {key: some["rope_theta"] for key, some in kinds.items() if "rope_theta" in some}
    found = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    if rope.get("rope_type", "default") != "default":
        found["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return found
