"""Every architecture of sae-lens' disk folders: encode and decode are sae-lens' own, and the published formula's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch

from steercache.core.errors import UsageError
from steercache.core.saes import SaeSpec
from steercache.sae.loading import load_sae
from tests.sae import formulas
from tests.sae.folders import D_IN, D_SAE, inference, metadata, randomised, rows, saved, weights_of

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


def trained(architecture: str, **changes: Any) -> Any:
    """A random SAE as sae-lens' trainer holds it."""
    training_class, config_class = sae_lens.registry.get_sae_training_class(architecture)
    made = randomised(training_class(config_class(d_in=D_IN, d_sae=D_SAE, k=4, metadata=metadata(), **changes)))
    made.topk_threshold.fill_(0.3)
    return made


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_batchtopk_and_matryoshka_encode_by_their_threshold(architecture: str, rescale: bool, tmp_path: Path) -> None:
    """From what the trainer saves at the end, and from a checkpoint of the training, which are the same SAE."""
    widths = {"matryoshka_widths": [10, 20, D_SAE]} if architecture == "matryoshka_batchtopk" else {}
    made = trained(architecture, rescale_acts_by_decoder_norm=rescale, **widths)
    weights = weights_of(made)
    made.save_model(tmp_path / "checkpoint")
    trained(architecture, rescale_acts_by_decoder_norm=rescale, **widths).save_inference_model(tmp_path / "final")
    norms = np.linalg.norm(weights["W_dec"], axis=1) if rescale else np.ones(D_SAE)
    x = rows().double().numpy()
    expected = formulas.standard(x, weights) * norms
    expected = expected * (expected > 0.3)
    ids = set()
    for folder in ("checkpoint", "final"):
        sae = load_sae(tmp_path / folder)
        np.testing.assert_allclose(sae.encode(rows()).numpy(), expected, atol=1e-5)
        rebuilt = formulas.decode(expected, weights, rescale=rescale)
        np.testing.assert_allclose(sae.decode(sae.encode(rows())).numpy(), rebuilt, atol=1e-5)
        np.testing.assert_allclose(expected @ sae.decoder + weights["b_dec"], rebuilt, atol=1e-5)
        assert (sae.spec.architecture, sae.spec.trained_as) == ("jumprelu", architecture)
        ids.add(sae.spec.sae_id)
    assert len(ids) == 1


def pursued(x: Any, weights: Any, *, steps: int, tolerance: float) -> Any:
    """Matching pursuit: the atom of the largest inner product with what is left, again and again, until little is left."""
    features = np.zeros((len(x), D_SAE))
    for row, out in zip(x - weights["b_dec"], features, strict=True):
        left = row.copy()
        for _ in range(steps):
            best = int((weights["W_dec"] @ left).argmax())
            size, known = max(float(weights["W_dec"][best] @ left), 0), out[best] != 0
            out[best] += size
            left -= size * weights["W_dec"][best]
            if known or np.linalg.norm(left) < tolerance:
                break
    return features


def test_a_matching_pursuit_folder_is_sae_lens_own(tmp_path: Path) -> None:
    made = inference("matching_pursuit", residual_threshold=0.05, max_iterations=3)
    made.W_dec.data /= made.W_dec.data.norm(dim=1, keepdim=True)
    sae = load_sae(saved(made, tmp_path / "sae"))
    with torch.no_grad():
        theirs = made.encode(rows())
        assert torch.equal(sae.encode(rows()), theirs)
        assert torch.equal(sae.decode(theirs), made.decode(theirs))
    expected = pursued(rows().double().numpy(), weights_of(made), steps=3, tolerance=0.05)
    np.testing.assert_allclose(theirs.numpy(), expected, atol=1e-5)
    assert (expected != 0).sum(axis=1).max() == 3


@pytest.mark.parametrize("normalise", ["layer_norm", "constant_norm_rescale"])
def test_an_sae_that_normalises_each_row_is_reconstructed_and_not_decoded(normalise: str, tmp_path: Path) -> None:
    made = inference("standard", normalize_activations=normalise)
    weights, x = weights_of(made), rows().double().numpy()
    sae = load_sae(saved(made, tmp_path / "sae"))
    if normalise == "layer_norm":
        mean, std = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
        expected = formulas.standard((x - mean) / (std + 1e-5), weights)
        rebuilt = formulas.decode(expected, weights) * std + mean
    else:
        scale = np.sqrt(D_IN) / np.linalg.norm(x, axis=1, keepdims=True)
        expected = formulas.standard(x * scale, weights)
        rebuilt = formulas.decode(expected, weights) / scale
    np.testing.assert_allclose(sae.encode(rows()).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(sae.reconstruct(rows()).numpy(), rebuilt, atol=1e-4)
    with pytest.raises(UsageError, match="its features do not hold"):
        sae.decode(sae.encode(rows()))


def test_what_is_kept_of_a_spec_reads_back_as_the_same(tmp_path: Path) -> None:
    spec = load_sae(saved(inference("gated"), tmp_path / "sae")).spec
    assert SaeSpec.of_record(json.loads(json.dumps(spec.record()))) == spec


def test_an_sae_in_another_dtype_is_another_sae(tmp_path: Path) -> None:
    folder = saved(inference("jumprelu"), tmp_path / "sae")
    half = load_sae(folder, dtype="bfloat16")
    assert half.encode(rows()).dtype == torch.float32
    assert half.spec.sae_id != load_sae(folder).spec.sae_id
    np.testing.assert_allclose(half.decoder, load_sae(folder).decoder, atol=0.01)


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
