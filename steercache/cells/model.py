"""MODEL of `steercache eval`: a manifest by name or file, a checkpoint folder, or a model of the zoo."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from steercache import zoo
from steercache.core.errors import NotFoundError, SteercacheWarning, UsageError
from steercache.manifests.load import find_manifest, read_manifest
from steercache.manifests.model import HubModel, ModelManifest, PathModel
from steercache.models.load import load_bundle, load_model
from steercache.models.spec import LoadedModel, TokenizerBundle

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
BACKBONES: Final = MappingProxyType({"tiny": "tiny-backbone", "demo": "smollm2-135m"})  # as their text runs name them


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A model manifest, and the folder that its paths are relative to."""

    manifest: ModelManifest
    base_dir: Path

    def bundle(self, root: Path, *, dtype: str = "auto") -> TokenizerBundle:
        """What can be known without the weights in memory. Raises as `models.load.load_bundle`."""
        return load_bundle(self.manifest, cache_dir=root, base_dir=self.base_dir, dtype=dtype)

    def load(
        self,
        root: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        device_map: str | Mapping[str, Any] | None = None,
    ) -> LoadedModel:
        """The model in memory; conversions go into the cache at `root`. Raises as `models.load.load_model`."""
        return load_model(
            self.manifest, cache_dir=root, base_dir=self.base_dir, device=device, dtype=dtype, device_map=device_map
        )


def find_model(name: str, root: Path) -> FoundModel:
    """What `name` means: a name of the zoo (built below `root` once), a checkpoint folder, or a manifest.

    A folder that is called as a model of the zoo is named by a path, such as `./demo`.

    Raises:
        NotFoundError: none of these; UsageError: a text model of the zoo's.
    """
    if name in BACKBONES:
        if _is_checkpoint(Path(name)) and zoo.built_as(Path(name)) != name:
            message = f"{name} is the model that ships with steercache; the folder of that name here is ./{name}"
            warnings.warn(message, SteercacheWarning, stacklevel=2)
        return zoo_model(name, root)
    folder = Path(name)
    if _is_checkpoint(folder):
        folder = folder.resolve()
        backbone = BACKBONES.get(zoo.built_as(folder) or "")
        if backbone is not None:
            _with_backbone(backbone, root)
        return _folder(folder, name=_manifest_name(folder.name), backbone=backbone)
    try:
        path = find_manifest(name, kind="model", search=(Path(),))
    except NotFoundError as error:
        if _HUB_ID.fullmatch(name):
            return _hub(name)
        hint = f"a model manifest, a checkpoint folder, or one of the zoo: {', '.join(BACKBONES)}"
        raise NotFoundError(error.message, place=error.place, hint=hint) from None
    manifest = read_manifest(path, kind="model")
    assert isinstance(manifest, ModelManifest)
    return FoundModel(manifest=zoo.in_place(manifest, root), base_dir=path.resolve().parent)


def zoo_model(name: str, root: Path) -> FoundModel:
    """A multimodal model of the zoo, built below `root` once.

    Raises:
        UsageError: a text model; NotFoundError: its weights are not in this installation.
    """
    if name not in BACKBONES:
        raise UsageError(f"{name} is a text model", hint=f"one of: {', '.join(BACKBONES)}")
    try:
        built = zoo.build(name, root / "models" / f"zoo-{name}")
    except FileNotFoundError as error:
        hint = f"install the package again, or train it in the repository: python -m bench.zoo.train {name}"
        raise NotFoundError(f"the weights of {name!r} are not in this installation", hint=hint) from error
    _with_backbone(BACKBONES[name], root)
    return _folder(built.resolve(), name=name, backbone=BACKBONES[name])


def _with_backbone(name: str, root: Path) -> None:
    """Put a backbone that ships with steercache below `root`, so that vectors' models can be compared with it."""
    if name in zoo.names():
        zoo.build(name, root / "models" / f"zoo-{name}")


def _is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of `save_pretrained`, of a whole model or of an adapter (which loading refuses by its name)."""
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))


def _folder(folder: Path, *, name: str, backbone: str | None) -> FoundModel:
    source = PathModel(type="path", folder=str(folder))
    manifest = ModelManifest(kind="model", version=1, name=name, source=source, backbone=backbone)
    return FoundModel(manifest=manifest, base_dir=folder)


def _hub(repository: str) -> FoundModel:
    """A repository of the Hugging Face hub, at its main branch."""
    source = HubModel(type="hub", id=repository)
    manifest = ModelManifest(kind="model", version=1, name=_manifest_name(repository.partition("/")[2]), source=source)
    return FoundModel(manifest=manifest, base_dir=Path())


def _manifest_name(folder: str) -> str:
    """A folder's name as manifests may have it."""
    return re.sub(r"[^a-z0-9._-]+", "-", folder.lower()).strip("-._")[:80] or "model"
