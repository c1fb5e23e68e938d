"""The kinds of manifest, by the word in their `kind` field. A new kind is a new row here and a file beside this one."""

from steercache.manifests.dataset import DatasetManifest
from steercache.manifests.model import ModelManifest
from steercache.manifests.recipe import RecipeManifest
from steercache.manifests.sae import SaeManifest
from steercache.manifests.sweep import SweepManifest
from steercache.manifests.trace import TraceManifest

Manifest = ModelManifest | DatasetManifest | TraceManifest | SweepManifest | SaeManifest | RecipeManifest

KINDS: dict[str, type[Manifest]] = {
    "model": ModelManifest,
    "dataset": DatasetManifest,
    "trace": TraceManifest,
    "sweep": SweepManifest,
    "sae": SaeManifest,
    "recipe": RecipeManifest,
}

__all__ = [
    "KINDS",
    "DatasetManifest",
    "Manifest",
    "ModelManifest",
    "RecipeManifest",
    "SaeManifest",
    "SweepManifest",
    "TraceManifest",
]
