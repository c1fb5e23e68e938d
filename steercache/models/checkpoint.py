"""A model manifest's source, turned into a local folder of safetensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import errors, snapshot_download

from steercache.core.errors import ManifestError, NotFoundError, UsageError
from steercache.manifests.model import HubModel, ModelManifest, ModelSource, PathModel, ShippedModel
from steercache.models.gguf import convert_gguf, file_in_package
from steercache.models.weight_files import INDEX, indexed_names, read_json, weight_files

# What a load can need and nothing that could run: no pickled weights, no Python.
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_UNWANTED = ["consolidated*", "*/*"]  # Mistral ships a second copy of its weights; subfolders hold other formats


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete model on disk: `config` is its `config.json`, `files` its safetensors; `model_id` names it for people."""

    folder: Path
    files: tuple[Path, ...]
    config: dict[str, Any] = field(repr=False)
    model_id: str


def find_checkpoint(manifest: ModelManifest, *, cache_dir: Path, base_dir: Path | None = None) -> Checkpoint:
    """Fetch, find or convert what a model manifest names. Relative paths start at `base_dir`, the manifest's own folder.

    Raises:
        NotFoundError: the folder, the file or the repository is not there, or cannot be reached.
        DamagedError: files of it are missing or broken.
        ManifestError: it holds what we do not load: pickled weights, adapters.
        MissingExtraError: it is in a package that is not installed.
    """
    folder, model_id = _locate(manifest.source, cache_dir=cache_dir, base_dir=base_dir or Path())
    return read_checkpoint(folder, model_id=model_id)


def _locate(source: ModelSource, *, cache_dir: Path, base_dir: Path) -> tuple[Path, str]:
    if isinstance(source, HubModel):
        return _from_hub(source), source.id
    if isinstance(source, PathModel):
        folder = base_dir / source.folder
        if not folder.is_dir():
            raise NotFoundError(f"no folder {source.folder!r}", place=str(folder), hint="mend `source.folder`")
        return folder, folder.resolve().name
    if isinstance(source, ShippedModel):
        built = f"steercache zoo build {source.name} FOLDER"
        raise UsageError(f"{source.name} has to be put together first", hint=f"steercache.zoo.in_place, or {built}")
    file = file_in_package(source.package, source.file) if source.package else base_dir / source.file
    if not file.is_file():
        raise NotFoundError(f"no file {source.file!r}", place=str(file), hint="mend `source.file`")
    prefix = f"{source.package}/" if source.package else ""
    return convert_gguf(file, cache_dir=cache_dir), prefix + file.name


def _from_hub(source: HubModel) -> Path:
    with _explaining_hub(source):
        folder = snapshot_download(
            source.id, revision=source.revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
        )
        index = Path(folder) / INDEX
        below = [name for name in indexed_names(index) if "/" in name] if index.is_file() else []
        if any(not (Path(folder) / name).is_file() for name in below):
            snapshot_download(source.id, revision=source.revision, allow_patterns=below)
    return Path(folder)


@contextmanager
def _explaining_hub(source: HubModel) -> Iterator[None]:
    name = f"{source.id} (revision {source.revision})"
    try:
        yield
    except errors.GatedRepoError as error:
        hint = f"accept its terms at https://huggingface.co/{source.id}, then `hf auth login`"
        raise NotFoundError(f"the hub's model {name} is gated", hint=hint) from error
    except (errors.RepositoryNotFoundError, UsageError, errors.HFValidationError) as error:
        raise NotFoundError(f"the hub has no model {source.id!r}, or it is private", hint="mend `source.id`") from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(
            f"the hub's model {source.id} has no revision {source.revision!r}", hint="mend it"
        ) from error
    except (OSError, errors.LocalEntryNotFoundError, errors.RevisionResolutionError, httpx.HTTPError) as error:
        hint = f"`hf download {source.id}` on a machine that is online and copy its folder, then use `source: {{type: path}}`"
        raise NotFoundError(
            f"the hub's model {name} is not on this machine and the hub cannot be reached", hint=hint
        ) from error


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
