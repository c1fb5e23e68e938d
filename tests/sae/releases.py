"""What the tests of published releases share: a manifest, narrow weights, and the comparison with a formula."""

from typing import Any

import numpy as np
import pytest
import torch
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from steercache.manifests.sae import ReleaseSae, SaeManifest
from steercache.sae.loaded import LoadedSae
from tests.sae.folders import rows

D, S = 12, 40


def manifest(release: str, sae: str, **more: Any) -> SaeManifest:
    return SaeManifest(
        kind="sae", version=1, name="one", source=ReleaseSae(type="release", release=release, sae=sae, **more)
    )


def narrow(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(get_pretrained_saes_directory()[release], "config_overrides", {"d_in": D, "d_sae": S})


def double(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value.astype(np.float64) for name, value in weights.items()}


def check(sae: LoadedSae, expected: np.ndarray, rebuilt: np.ndarray, theirs: Any) -> None:
    """Features and rows are the published formula's; features are those of sae-lens' own module, to the bit."""
    x = rows()
    features = sae.encode(x)
    assert features.dtype == torch.float32
    assert 0 < int((features != 0).sum()) < features.numel()
    np.testing.assert_allclose(features.numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(sae.decode(features).numpy(), rebuilt, atol=2e-5)
    np.testing.assert_allclose(sae.reconstruct(x).numpy(), rebuilt, atol=2e-5)
    bias = sae.decode(torch.zeros(1, features.shape[1])).numpy()
    np.testing.assert_allclose(features.numpy() @ sae.decoder + bias, rebuilt, atol=2e-5)
    if theirs is not None:
        with torch.no_grad():
            assert torch.equal(features, theirs.encode(x))
            assert torch.equal(sae.decode(features), theirs.decode(features))
