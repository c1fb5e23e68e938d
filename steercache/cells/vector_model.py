"""The model that a vector is tried on: the named one, or the one that it was fitted on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steercache.cache.documents import RunDocument
from steercache.cache.handle import CacheFolder
from steercache.cache.vectors import with_model
from steercache.cells.vectors import check_lineage
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.lineage import lineage_of
from steercache.core.vectors import SteeringVector
from steercache.manifests.load import manifests_named, read_manifest
from steercache.manifests.model import ModelManifest
from steercache.models.load import load_bundle, load_model
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.zoo import in_place


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A model manifest, and the folder that its paths start at."""

    manifest: ModelManifest
    base_dir: Path

    def bundle(self, cache: CacheFolder, dtype: str) -> TokenizerBundle:
        manifest = in_place(self.manifest, cache.root)
        return load_bundle(manifest, cache_dir=cache.root, base_dir=self.base_dir, dtype=dtype)


def load_model_of(
    cache: CacheFolder,
    vector: SteeringVector,
    named: str | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    allow_foreign: bool = False,
) -> LoadedModel:
    """The model of the manifest `named` (a name or a file), or of the vector's run, in memory.

    Several manifests may have the run's name for its model; the one whose weights the run was traced on is taken.

    Raises:
        UsageError: none is named, and the vector has no run; or the vector was fitted on other weights and that is not
            allowed; and as `models.load.load_model`.
    """
    chosen = _chosen(cache, vector, named, dtype)
    check_lineage(cache, vector, chosen.bundle(cache, dtype).spec, allow_foreign=allow_foreign)
    return load_model(
        in_place(chosen.manifest, cache.root),
        cache_dir=cache.root,
        base_dir=chosen.base_dir,
        device=device,
        dtype=dtype,
    )


def model_without_weights_of(
    cache: CacheFolder, vector: SteeringVector, named: str | None, *, dtype: str = "auto", allow_foreign: bool = False
) -> LoadedModel:
    """What `load_model_of` loads, without its weights: for what an earlier run kept. Raises as that."""
    bundle = _chosen(cache, vector, named, dtype).bundle(cache, dtype)
    check_lineage(cache, vector, bundle.spec, allow_foreign=allow_foreign)
    return LoadedModel(model=None, bundle=bundle)


def _chosen(cache: CacheFolder, vector: SteeringVector, named: str | None, dtype: str) -> _Found:
    found = _manifests_of(cache, vector, named)
    return _with_its_weights(cache, vector, found, dtype) if named is None and len(found) > 1 else found[0]


def _with_its_weights(cache: CacheFolder, vector: SteeringVector, found: list[_Found], dtype: str) -> _Found:
    """The manifest of the weights that the vector was fitted on; the first where none is of these."""
    fitted_on = with_model(cache, vector).fitted_on
    for one in found:
        try:
            if lineage_of(fitted_on, one.bundle(cache, dtype).spec) == "own":
                return one
        except NotFoundError:
            continue  # a manifest whose weights are not here
    return found[0]


def _manifests_of(cache: CacheFolder, vector: SteeringVector, named: str | None) -> list[_Found]:
    """Every manifest that may be meant, the nearest first."""
    here = Path()
    if named is None:
        run_id = vector.provenance.get("run_id")
        if run_id is None:
            raise UsageError(f"{vector.name!r} does not say which model it belongs to", hint="name the model")
        run = cache.run_document(run_id)
        source = run.model_source
        if source is not None and Path(source.folder).is_dir():
            return [_written_out(run, source.manifest, Path(source.folder))]
        traced = run.manifest["model"]
        if not isinstance(traced, str):  # written out inside the trace's own manifest
            return [_written_out(run, traced, here)]
        named = traced
    found = []
    for path in manifests_named(named, kind="model", search=(here,)):
        manifest = read_manifest(path, kind="model")
        assert isinstance(manifest, ModelManifest)
        found.append(_Found(manifest=manifest, base_dir=path.parent))
    return found


def _written_out(run: RunDocument, document: Mapping[str, Any], base_dir: Path) -> _Found:
    """A manifest kept by a run, with the attention that the run computed with: what is kept has defaults written out, and
    the default of a manifest is not what a model that cannot use it is given."""
    computed = {"attention": run.numerics["attention"]} if "attention" in run.numerics else {}
    manifest = ModelManifest.model_validate_json(json.dumps({**document, **computed}))
    return _Found(manifest=manifest, base_dir=base_dir)
