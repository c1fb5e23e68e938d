"""A complete checkpoint in a local folder: its configuration and the files that hold its weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steercache.core.errors import ManifestError
from steercache.models.weight_files import read_json, weight_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete model on disk: `config` is its `config.json`, `files` its safetensors; `model_id` names it for people."""

    folder: Path
    files: tuple[Path, ...]
    config: dict[str, Any] = field(repr=False)
    model_id: str


def read_checkpoint(folder: Path, *, model_id: str) -> Checkpoint:
    """Look at a checkpoint's folder and list what would be loaded. Raises as `find_checkpoint`."""
    _refuse_adapter(folder)
    config = read_json(folder / "config.json", missing="no config.json: this is not a folder of `save_pretrained`")
    return Checkpoint(folder=folder, files=weight_files(folder, config), config=config, model_id=model_id)


def _refuse_adapter(folder: Path) -> None:
    """Raises ManifestError for a folder of PEFT, with or without the model beside it."""
    named = folder / "adapter_config.json"
    if not named.is_file() and not any(folder.glob("adapter_model.*")):
        return
    merge = "`merge_and_unload().save_pretrained(NEW_FOLDER)`, then name that folder"
    if (folder / "config.json").is_file():
        raise ManifestError(
            "this is an adapter beside a model; its weights would be changed by what the fingerprint does not see",
            place=str(folder),
            hint=f"merge it first: peft's {merge}",
        )
    base = read_json(named).get("base_model_name_or_path") if named.is_file() else None
    of = f" of {base}" if isinstance(base, str) and base else ""
    raise ManifestError(
        f"this is only an adapter (PEFT){of}, without the model that it changes",
        place=str(folder),
        hint=f"merge it first: peft's PeftModel.from_pretrained(BASE_MODEL, ADAPTER) and {merge}",
    )
