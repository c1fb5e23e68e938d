"""What a model's weights are, by their content: its fingerprint, those of its other conversions, and its backbone's."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from huggingface_hub import snapshot_download

from steercache.core.errors import SteercacheError
from steercache.manifests.load import find_manifest, read_manifest
from steercache.manifests.model import GgufModel, HubModel, ModelManifest, PathModel
from steercache.models.checkpoint import gguf_file
from steercache.models.checkpoint_folder import Checkpoint, read_checkpoint
from steercache.models.fingerprint import fingerprint
from steercache.models.gguf import conversions, other_conversions
from steercache.models.memo import Stamp, file_stamp
from steercache.models.quantised import fingerprint_at_load

HASHED_AT_MOST: Final = 4 << 30  # bytes of weights that are read to identify a model that was loaded without steercache


def fingerprint_of(checkpoint: Checkpoint, cache_dir: Path | None) -> str:
    """The fingerprint of a checkpoint; its files are read once for each cache."""
    memo_dir = None if cache_dir is None else cache_dir / "models" / "memo"
    return fingerprint(checkpoint.files, checkpoint.config, memo_dir=memo_dir)


def kin_of(checkpoint: Checkpoint, cache_dir: Path) -> tuple[str, ...]:
    """Fingerprints of the same GGUF file converted to other dtypes; () for a checkpoint that is no conversion."""
    return _fingerprints(other_conversions(checkpoint.folder, cache_dir=cache_dir), cache_dir)


def backbone_fingerprints(manifest: ModelManifest, *, cache_dir: Path, base_dir: Path | None) -> tuple[str, ...]:
    """Fingerprints of the text model that a manifest names as its backbone, in every dtype it was converted to.

    The name is looked up beside the manifest, then among the shipped ones. Nothing is fetched or converted: () where its
    weights are not on this machine.
    """
    if manifest.backbone is None:
        return ()
    with suppress(SteercacheError):
        path = find_manifest(manifest.backbone, kind="model", search=() if base_dir is None else (base_dir,))
        backbone = read_manifest(path, kind="model")
        assert isinstance(backbone, ModelManifest)
        found = _fingerprints(tuple(_folders(backbone, cache_dir=cache_dir, base_dir=path.parent)), cache_dir)
        return tuple(sorted({fingerprint_at_load(one, backbone.quantization) for one in found} | set(found)))
    return ()


def loaded_fingerprints(model: Any) -> tuple[str, ...]:
    """Fingerprints of a transformers model's weights, from the folder that it says it was loaded from.

    () where that is not known: no local folder, or one so large that reading it would take long. What was changed in memory
    since does not show.
    """
    named = getattr(model.config, "_name_or_path", None)
    folder = Path(named) if isinstance(named, str) and named else None
    with suppress(SteercacheError, OSError, ValueError):
        if folder is not None and folder.is_dir():
            checkpoint = read_checkpoint(folder, model_id=folder.name)
            stamps = tuple((str(f), file_stamp(f)) for f in (folder / "config.json", *checkpoint.files))
            if sum(size for _, (size, *_) in stamps) <= HASHED_AT_MOST:
                return (_hashed(folder, stamps), *_kin_hashed(folder))
    return ()


@cache
def _hashed(folder: Path, stamps: tuple[tuple[str, Stamp], ...]) -> str:
    return fingerprint_of(read_checkpoint(folder, model_id=folder.name), None)


def _kin_hashed(folder: Path) -> tuple[str, ...]:
    """For a conversion inside a cache, those of its file's other conversions."""
    is_conversion = folder.parent.name == "models" and (folder / "origin.json").is_file()
    return kin_of(read_checkpoint(folder, model_id=folder.name), folder.parent.parent) if is_conversion else ()


def _fingerprints(folders: tuple[Path, ...], cache_dir: Path) -> tuple[str, ...]:
    found = set()
    for folder in folders:
        with suppress(SteercacheError):  # a damaged folder has no weights to compare with
            found.add(fingerprint_of(read_checkpoint(folder, model_id=folder.name), cache_dir))
    return tuple(sorted(found))


def _folders(manifest: ModelManifest, *, cache_dir: Path, base_dir: Path) -> Iterator[Path]:
    """The local folders that hold a manifest's weights now."""
    source = manifest.source
    if isinstance(source, GgufModel):
        yield from conversions(gguf_file(source, base_dir), cache_dir=cache_dir)
    elif isinstance(source, PathModel):
        yield base_dir / source.folder
    elif isinstance(source, HubModel):
        with suppress(Exception):  # whatever the hub's library says of a model that is not here
            yield Path(snapshot_download(source.id, revision=source.revision, local_files_only=True))
    else:
        yield cache_dir / "models" / f"zoo-{source.name}"
