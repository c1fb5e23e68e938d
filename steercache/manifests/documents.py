"""The kinds of manifest, by the word in their `kind` field. A new kind is a new row here and a file beside this one."""

from steercache.manifests.dataset import DatasetManifest
from steercache.manifests.model import ModelManifest
from steercache.manifests.sweep import SweepManifest
from steercache.manifests.trace import TraceManifest

Manifest = ModelManifest | DatasetManifest | TraceManifest | SweepManifest

KINDS: dict[str, type[ModelManifest] | type[DatasetManifest] | type[TraceManifest] | type[SweepManifest]] = {
    "model": ModelManifest,
    "dataset": DatasetManifest,
    "trace": TraceManifest,
    "sweep": SweepManifest,
}

__all__ = ["KINDS", "DatasetManifest", "Manifest", "ModelManifest", "SweepManifest", "TraceManifest"]
