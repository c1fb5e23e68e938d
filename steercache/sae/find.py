"""What names an SAE: a manifest by name or file, that of one layer as `NAME-l12`, or a folder that sae-lens wrote."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from steercache.core.errors import NotFoundError, UsageError
from steercache.manifests.load import find_manifest, read_manifest
from steercache.manifests.sae import FolderSae, ReleaseSae, SaeManifest, ShippedSae

CONFIG = "cfg.json"  # of a folder as sae-lens writes it
_LAYER = re.compile(r"^(?P<name>.+)-l(?P<layer>\d{1,6})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSae:
    """One SAE of a manifest, and the folder that the manifest's paths are relative to. `sae` is its id in the release, or its
    folder."""

    manifest: SaeManifest
    base_dir: Path
    name: str
    layer: int | None
    sae: str


def find_sae(
    source: SaeManifest | str | os.PathLike[str],
    *,
    layer: int | None = None,
    base_dir: Path | None = None,
    search: Iterable[Path] = (Path(),),
) -> FoundSae:
    """The SAE that `source` means: a manifest, its name or file, `NAME-l12`, or a folder with a `cfg.json`.

    `layer` chooses among the SAEs of a manifest that lists several. `base_dir` is what the paths of a manifest object are
    relative to (None: the current folder).

    Raises:
        NotFoundError: no such manifest, folder or layer. UsageError: the manifest lists several SAEs and no layer is named.
        ManifestError: the manifest is not valid.
    """
    if isinstance(source, SaeManifest):
        return _of_layer(source, base_dir or Path(), layer)
    text = os.fspath(source)
    if (Path(text) / CONFIG).is_file():
        return _of_layer(_folder(Path(text)), Path(), layer)
    try:
        path = find_manifest(source if isinstance(source, Path) else text, kind="sae", search=search)
    except NotFoundError as error:
        if Path(text).is_dir():
            raise NotFoundError(f"no SAE folder: there is no {CONFIG}", place=text) from None
        one = _LAYER.match(text)
        if one is None or layer is not None:
            raise error
        try:
            path = find_manifest(one["name"], kind="sae", search=search)
        except NotFoundError:
            raise error from None
        layer = int(one["layer"])
    manifest = read_manifest(path, kind="sae")
    assert isinstance(manifest, SaeManifest)
    return _of_layer(manifest, path.resolve().parent, layer)


def find_saes(
    source: SaeManifest | str | os.PathLike[str],
    *,
    layers: Iterable[int] | None = None,
    base_dir: Path | None = None,
    search: Iterable[Path] = (Path(),),
) -> list[FoundSae]:
    """The SAEs that `source` means, by layer: those of `layers`, or all that its manifest lists. Raises as `find_sae`."""
    if layers is not None:
        return [find_sae(source, layer=layer, base_dir=base_dir, search=search) for layer in layers]
    if isinstance(source, SaeManifest):
        return saes_of(source, base_dir or Path())
    if (Path(source) / CONFIG).is_file():
        return [find_sae(source)]
    try:
        path = find_manifest(source if isinstance(source, Path) else os.fspath(source), kind="sae", search=search)
    except NotFoundError:
        return [find_sae(source, base_dir=base_dir, search=search)]  # a folder, or NAME-l12
    manifest = read_manifest(path, kind="sae")
    assert isinstance(manifest, SaeManifest)
    return saes_of(manifest, path.resolve().parent)


def saes_of(manifest: SaeManifest, base_dir: Path) -> list[FoundSae]:
    """Every SAE of a manifest, by layer."""
    return [_of_layer(manifest, base_dir, layer) for layer in manifest.layers or (None,)]


def _of_layer(manifest: SaeManifest, base_dir: Path, layer: int | None) -> FoundSae:
    source = manifest.source
    if not manifest.saes:  # one SAE, whose layer its configuration says
        named = {FolderSae: "folder", ShippedSae: "name", ReleaseSae: "sae"}[type(source)]
        sae = str(getattr(source, named))
        return FoundSae(manifest=manifest, base_dir=base_dir, name=manifest.name, layer=layer, sae=sae)
    listed = f"layers {', '.join(map(str, manifest.layers))}"
    if layer is None:
        raise UsageError(
            f"it has an SAE for each of {listed}, and no layer is named",
            place=manifest.name,
            hint=f"{manifest.name}-l{manifest.layers[0]}",
        )
    for one in manifest.saes:
        if one.layer == layer:
            name = f"{manifest.name}-l{layer}"
            sae = f"{source.folder}/{one.sae}" if isinstance(source, FolderSae) else one.sae
            return FoundSae(manifest=manifest, base_dir=base_dir, name=name, layer=layer, sae=sae)
    raise NotFoundError(f"it has no SAE of layer {layer}; it has {listed}", place=manifest.name)


def _folder(folder: Path) -> SaeManifest:
    """A manifest for a folder without one, named after it."""
    resolved = folder.resolve()
    name = re.sub(r"[^a-z0-9._-]+", "-", resolved.name.lower()).strip("-._")[:80] or "sae"
    return SaeManifest(kind="sae", version=1, name=name, source=FolderSae(type="folder", folder=str(resolved)))
