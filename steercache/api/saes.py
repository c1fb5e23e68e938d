"""Sparse autoencoders (SAEs) by name: listed from manifests, loaded from this machine's files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steercache.core.errors import ManifestError, NotFoundError
from steercache.manifests.load import declared_kind, find_manifest, manifest_files, read_manifest
from steercache.manifests.sae import FolderSae, ReleaseSae, SaeManifest, ShippedSae

if TYPE_CHECKING:
    from steercache.sae.loaded import LoadedSae


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSae:
    """One SAE that can be named, without its weights. `layer` is None where only its configuration says it; `place` is the
    release or the folder, `sae` the id or folder inside it."""

    name: str
    manifest: str
    model: str | None
    layer: int | None
    place: str
    sae: str | None
    file: str


def load_sae(
    name: str | os.PathLike[str] | SaeManifest,
    *,
    layer: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> "LoadedSae":
    """Load an SAE: a manifest by name or file, one of its layers as `NAME-l12`, or a folder that sae-lens wrote.

    A release of sae-lens is read from the hub's cache (`HF_HUB_CACHE`), and what is not there is fetched into it.
    `sae.spec` says what it is; `sae.encode(x)` takes activations (n, d_in) and returns features (n, d_sae), `sae.decode` goes
    back, and `sae.decoder` has what one unit of each feature adds to an activation, (d_sae, d_in).

    Raises:
        NotFoundError: no such manifest, folder, release or id, or its files are not on this machine. DamagedError: the files
        are not what they should be. UsageError: an SAE that cannot encode rows of a run, or several layers and none is named.
        BudgetError: it does not fit into memory. MissingExtraError: sae-lens is not installed.
    """
    from steercache.sae.loading import load_sae as load

    return load(name, layer=layer, device=device, dtype=dtype)


def list_saes() -> list[NamedSae]:
    """The SAEs of the manifests in the current folder and of those that ship, a line for each layer; nothing is loaded."""
    found: list[NamedSae] = []
    for path in manifest_files((Path(),)):
        if declared_kind(path) != "sae":
            continue
        try:
            manifest = read_manifest(path)
        except ManifestError:
            continue  # `manifest list` names it as invalid
        assert isinstance(manifest, SaeManifest)
        found += _named(manifest, path)
    return found


def saes_of_manifest(name: str) -> list[NamedSae]:
    """The SAEs of one manifest by name or file; [] where there is none: a folder, or one layer as `NAME-l12`.

    Raises:
        ManifestError: the manifest is not valid.
    """
    try:
        path = find_manifest(name, kind="sae", search=(Path(),))
    except NotFoundError:
        return []
    manifest = read_manifest(path, kind="sae")
    assert isinstance(manifest, SaeManifest)
    return _named(manifest, path)


def _named(manifest: SaeManifest, path: Path) -> list[NamedSae]:
    source = manifest.source
    place = source.release if isinstance(source, ReleaseSae) else _place_of(source)
    one = source.sae if isinstance(source, ReleaseSae) else None
    saes: list[tuple[str, int | None, str | None]] = [
        (f"{manifest.name}-l{s.layer}", s.layer, s.sae) for s in sorted(manifest.saes, key=lambda s: s.layer)
    ]
    return [
        NamedSae(
            name=name, manifest=manifest.name, model=manifest.model, layer=layer, place=place, sae=sae, file=str(path)
        )
        for name, layer, sae in saes or [(manifest.name, None, one)]
    ]


def _place_of(source: FolderSae | ShippedSae) -> str:
    return source.folder if isinstance(source, FolderSae) else "ships with steercache"
