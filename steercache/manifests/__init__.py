"""Manifests: YAML in, frozen and validated documents out, and which of their fields are part of an identity.

Owns the kinds of manifest (`model`, `dataset`, `trace`, `sweep`, `sae`, `recipe`), how they are found by name, read and
checked, and their JSON schemas. Reads YAML files and nothing else: no data set, model or network is opened here.
"""

from steercache.manifests.documents import (
    DatasetManifest,
    Manifest,
    ModelManifest,
    RecipeManifest,
    SaeManifest,
    SweepManifest,
    TraceManifest,
)
from steercache.manifests.load import load_manifest, parse_manifest
from steercache.manifests.resolve import ResolvedSweep, ResolvedTrace, resolve_sweep, resolve_trace

__all__ = [
    "DatasetManifest",
    "Manifest",
    "ModelManifest",
    "RecipeManifest",
    "ResolvedSweep",
    "ResolvedTrace",
    "SaeManifest",
    "SweepManifest",
    "TraceManifest",
    "load_manifest",
    "parse_manifest",
    "resolve_sweep",
    "resolve_trace",
]
