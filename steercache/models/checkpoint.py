"""A model manifest's source, turned into a local folder of safetensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from huggingface_hub import errors, snapshot_download

from steercache.core.errors import NotFoundError, UsageError
from steercache.core.layout import DType
from steercache.manifests.model import GgufModel, HubModel, ModelManifest, PathModel, ShippedModel
from steercache.models.checkpoint_folder import Checkpoint, read_checkpoint
from steercache.models.gguf import convert_gguf, file_in_package
from steercache.models.weight_files import INDEX, indexed_names

# What a load can need and nothing that could run: no pickled weights, no Python.
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_UNWANTED = ["consolidated*", "*/*"]  # Mistral ships a second copy of its weights; subfolders hold other formats


def find_checkpoint(
    manifest: ModelManifest, *, cache_dir: Path, base_dir: Path | None = None, dtype: DType | None = None
) -> Checkpoint:
    """Fetch, find or convert what a model manifest names. Relative paths start at `base_dir`, the manifest's own folder.

    A GGUF file's weights are made dense in `dtype`, by default bfloat16.

    Raises:
        NotFoundError: the folder, the file or the repository is not there, or cannot be reached.
        DamagedError: files of it are missing or broken.
        ManifestError: it holds what we do not load: pickled weights, adapters.
        MissingExtraError: it is in a package that is not installed.
    """
    source = manifest.source
    if isinstance(source, GgufModel):
        file = gguf_file(source, base_dir or Path())
        prefix = f"{source.package}/" if source.package else ""
        folder = convert_gguf(file, cache_dir=cache_dir, dtype=dtype or "bfloat16")
        return read_checkpoint(folder, model_id=prefix + file.name)
    folder, model_id = _locate(source, base_dir=base_dir or Path())
    return read_checkpoint(folder, model_id=model_id)


def gguf_file(source: GgufModel, base_dir: Path) -> Path:
    """Where a GGUF file is, on disk or in an installed package. Raises NotFoundError, MissingExtraError."""
    file = file_in_package(source.package, source.file) if source.package else base_dir / source.file
    if not file.is_file():
        raise NotFoundError(
            f"no file {source.file!r}",
            place=str(file),
            hint="mend `source.file`, which is relative to the manifest's folder",
        )
    return file


def _locate(source: HubModel | PathModel | ShippedModel, *, base_dir: Path) -> tuple[Path, str]:
    if isinstance(source, HubModel):
        return _from_hub(source), source.id
    if isinstance(source, PathModel):
        folder = base_dir / source.folder
        if not folder.is_dir():
            raise NotFoundError(
                f"no folder {source.folder!r}",
                place=str(folder),
                hint="mend `source.folder`, which is relative to the manifest's folder",
            )
        return folder, folder.resolve().name
    built = f"steercache zoo build {source.name} FOLDER"
    raise UsageError(f"{source.name} has to be put together first", hint=f"steercache.zoo.in_place, or {built}")


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
