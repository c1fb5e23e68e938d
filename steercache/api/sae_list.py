"""The SAEs that a cache can name, each with what is encoded with it."""

from collections.abc import Iterable
from dataclasses import dataclass

from steercache.api.sae_encoding import EncodedRun, encoded_runs
from steercache.api.saes import NamedSae, list_saes
from steercache.api.shipped import shipped_saes
from steercache.cache.handle import CacheFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSae:
    """An SAE, or the SAEs of several layers of one manifest.

    `layers` is () where only its configuration says it; `place` is the release or the folder; `file` is the manifest, None for
    an SAE that was named by its folder alone.
    """

    name: str
    model: str | None
    layers: tuple[int, ...]
    place: str
    file: str | None
    encodings: tuple[EncodedRun, ...] = ()


def listed_saes(cache: CacheFolder | None) -> list[ListedSae]:
    """The SAEs of the manifests in the current folder and of those that ship, and those that encoded a run of a cache.

    Encodings stand with the SAE by their name: nothing is loaded.
    """
    by_manifest: dict[tuple[str, str], list[NamedSae]] = {}
    for one in list_saes():
        by_manifest.setdefault((one.manifest, one.file), []).append(one)
    rest = [] if cache is None else encoded_runs(cache)
    shipped = {one.name: {one.layer} for one in shipped_saes()}
    found = []
    for (name, file), some in by_manifest.items():
        names = {one.name for one in some}
        own = tuple(one for one in rest if one.sae.name in names)
        rest = [one for one in rest if one.sae.name not in names]
        layers = {one.layer for one in some if one.layer is not None} or {one.layer for one in own} | shipped.get(
            name, set()
        )
        first = some[0]
        found.append(
            ListedSae(
                name=name,
                model=first.model,
                layers=tuple(sorted(layers)),
                place=first.place,
                file=file,
                encodings=own,
            )
        )
    return found + _without_manifest(rest)


def _without_manifest(encodings: Iterable[EncodedRun]) -> list[ListedSae]:
    by_sae: dict[str, list[EncodedRun]] = {}
    for one in encodings:
        by_sae.setdefault(one.sae.sae_id, []).append(one)
    return [
        ListedSae(
            name=some[0].sae.name,
            model=some[0].sae.model_name,
            layers=(some[0].layer,),
            place=str(some[0].sae.source.get("folder") or some[0].sae.source.get("release") or "-"),
            file=None,
            encodings=tuple(some),
        )
        for some in by_sae.values()
    ]
