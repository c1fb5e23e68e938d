"""YAML in, frozen validated documents out; which of their fields are identity.

This room owns the four kinds of manifest (`model`, `dataset`, `trace`, `sweep`), how they are read, checked and found by name,
and their JSON schema. It refuses anything that opens a data set, a model or the network: it reads YAML files and nothing else.
"""

from steercache.manifests.documents import DatasetManifest, Manifest, ModelManifest, SweepManifest, TraceManifest
from steercache.manifests.load import load_manifest, parse_manifest
from steercache.manifests.resolve import ResolvedSweep, ResolvedTrace, resolve_sweep, resolve_trace

__all__ = [
    "DatasetManifest",
    "Manifest",
    "ModelManifest",
    "ResolvedSweep",
    "ResolvedTrace",
    "SweepManifest",
    "TraceManifest",
    "load_manifest",
    "parse_manifest",
    "resolve_sweep",
    "resolve_trace",
]
