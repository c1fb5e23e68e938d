"""The model that a vector is tried on at the terminal: the one asked for, or the one that it was fitted on."""

import json
from pathlib import Path

from steercache.cache.handle import Cache
from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from steercache.manifests.load import find_manifest, read_manifest
from steercache.manifests.model import ModelManifest
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.zoo import in_place


def load_model_of(
    cache: Cache, vector: SteeringVector, named: str | None, *, device: str = "auto", dtype: str = "auto"
) -> LoadedModel:
    """The model of the manifest `named` (a name or a file), or of the vector's run, in memory.

    Raises:
        UsageError: none is named, and the vector has no run; and as `models.load.load_model`.
    """
    manifest, base_dir = _manifest_of(cache, vector, named)
    return load_model(
        in_place(manifest, cache.root), cache_dir=cache.root, base_dir=base_dir, device=device, dtype=dtype
    )


def _manifest_of(cache: Cache, vector: SteeringVector, named: str | None) -> tuple[ModelManifest, Path]:
    """The manifest, and the folder that its paths start at."""
    here = Path()
    if named is None:
        run_id = vector.provenance.get("run_id")
        if run_id is None:
            raise UsageError(f"{vector.name!r} does not say which model it belongs to", hint="--model NAME or FILE")
        run = cache.run_document(run_id)
        source = run.model_source
        if source is not None and Path(source.folder).is_dir():
            return ModelManifest.model_validate_json(json.dumps(source.manifest)), Path(source.folder)
        traced = run.manifest["model"]
        if not isinstance(traced, str):  # written out inside the trace's own manifest
            return ModelManifest.model_validate_json(json.dumps(traced)), here
        named = traced
    path = find_manifest(named, kind="model", search=(here,))
    manifest = read_manifest(path, kind="model")
    assert isinstance(manifest, ModelManifest)
    return manifest, path.parent
