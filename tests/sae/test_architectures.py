"""Every architecture of sae-lens' disk folders: encode and decode are sae-lens' own, and the published formula's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch

from steercache.sae.loading import load_sae
from tests.sae import formulas
from tests.sae.folders import D_IN, D_SAE, inference, rows, saved, weights_of

CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "standard": ({}, formulas.standard),
    "jumprelu": ({"apply_b_dec_to_input": False}, formulas.jumprelu),
    "gated": ({}, formulas.gated),
    "topk": ({"k": 5}, lambda x, w: formulas.topk(x, w, 5)),
    "abstopk": ({"k": 5}, lambda x, w: formulas.abstopk(x, w, 5)),
}


@pytest.mark.parametrize("architecture", CASES)
def test_a_folder_of_each_architecture_encodes_and_decodes_as_sae_lens_and_as_published(
    architecture: str, tmp_path: Path
) -> None:
    settings, formula = CASES[architecture]
    made = inference(architecture, **settings)
    x = rows()
    with torch.no_grad():
        theirs = made.encode(x)
        rebuilt = made.decode(theirs)
    sae = load_sae(saved(made, tmp_path / "sae"))

    assert torch.equal(sae.encode(x), theirs)
    assert torch.equal(sae.decode(theirs), rebuilt)
    weights = weights_of(made)
    expected = formula(x.double().numpy(), weights)
    np.testing.assert_allclose(sae.encode(x).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(sae.decode(theirs).numpy(), formulas.decode(expected, weights), atol=1e-5)
    assert (theirs != 0).any()
    assert (theirs == 0).any()
    assert sae.decoder.dtype == np.float32
    np.testing.assert_allclose(
        sae.encode(x).numpy() @ sae.decoder + weights["b_dec"], sae.decode(theirs).numpy(), atol=1e-5
    )


def test_the_spec_says_what_the_configuration_says_and_the_identity_follows_the_weights(tmp_path: Path) -> None:
    made = inference("jumprelu")
    spec = load_sae(saved(made, tmp_path / "one")).spec
    assert (spec.architecture, spec.d_in, spec.d_sae, spec.name) == ("jumprelu", D_IN, D_SAE, "one")
    assert (spec.model_name, spec.site, spec.layer, spec.prepend_bos) == ("tiny", "resid_post", 1, False)

    assert load_sae(saved(made, tmp_path / "two")).spec.sae_id == spec.sae_id
    made.threshold.data[3] += 0.001
    assert load_sae(saved(made, tmp_path / "three")).spec.sae_id != spec.sae_id


def test_settings_that_change_the_encoding_change_the_identity(tmp_path: Path) -> None:
    ids = [
        load_sae(saved(inference("topk", k=k, rescale_acts_by_decoder_norm=r), tmp_path / f"{k}{r}")).spec.sae_id
        for k in (4, 5)
        for r in (False, True)
    ]
    assert len(set(ids)) == 4


def test_what_tests_cover_is_what_sae_lens_has_for_single_rows() -> None:
    others = {"transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder", "temporal"}
    assert set(sae_lens.registry.SAE_CLASS_REGISTRY) == set(CASES) | others | {"matching_pursuit"}
