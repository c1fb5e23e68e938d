"""Llama Scope from a hub cache folder, offline: the authors' formula with the norms of input, output and decoder rows."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from steercache.core.errors import DamagedError, UsageError
from steercache.sae.loading import load_sae
from tests.sae.folders import rows
from tests.sae.hub import as_json, put, random, safetensors_bytes
from tests.sae.releases import D, S, check, double, manifest


def llama_scope(x: np.ndarray, tensors: dict[str, Any], said: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Features and rebuilt rows as the authors' code computes them at inference, step by step (OpenMOSS Language-Model-SAEs:
    `standardize_parameters_of_dataset_norm`, `encode` with `sparsity_include_decoder_norm`, `decode`)."""
    w_e, b_e, w_d, b_d = (tensors[n].double().numpy() for n in LLAMA_SCOPE)  # (s, d), (s,), (d, s), (d,)
    f_in, f_out = (math.sqrt(said["d_model"]) / said["dataset_average_activation_norm"][n] for n in ("in", "out"))
    b_e, b_d, w_d = b_e / f_in, b_d / f_out, w_d * f_in / f_out
    hidden = x @ w_e.T + b_e
    scores = hidden * np.linalg.norm(w_d, axis=0) if said["sparsity_include_decoder_norm"] else hidden
    acts = hidden * (scores > said["jump_relu_threshold"])
    return acts * f_in, acts @ w_d.T + b_d  # features in the units of the encoder's input, as sae-lens has them


LLAMA_SCOPE = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")


@pytest.mark.parametrize("include_norm", [True, False])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("ratio", [1.0, 2.5], ids=["equal-norms", "other-output-norm"])
def test_llama_scope_is_the_authors_own_with_norms_of_input_output_and_decoder_rows(
    include_norm: bool, listed: bool, ratio: float, hub: Path
) -> None:
    release, sae_id = "llama_scope_lxr_8x", "l3r_8x"
    entry = get_pretrained_saes_directory()[release]
    scale, folder = entry.norm_scaling_factor[sae_id], entry.saes_map[sae_id]
    weights = double(random(D, S))
    weights["W_enc"] /= scale  # trained on rows scaled by much: tiny weights
    said: dict[str, Any] = {
        "d_model": D,
        "d_sae": S,
        "jump_relu_threshold": 0.02,
        "dataset_average_activation_norm": {"in": math.sqrt(D) / scale, "out": ratio * math.sqrt(D) / scale},
        "sparsity_include_decoder_norm": include_norm,
        "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
    }
    tensors = {
        "encoder.weight": torch.from_numpy(weights["W_enc"].T.copy()).float(),
        "decoder.weight": torch.from_numpy(weights["W_dec"].T.copy()).float(),
        "encoder.bias": torch.from_numpy(weights["b_enc"]).float(),
        "decoder.bias": torch.from_numpy(weights["b_dec"]).float(),
    }
    files = {
        f"{folder}/hyperparams.json": as_json(said),
        f"{folder}/checkpoints/final.safetensors": safetensors_bytes(tensors),
    }
    assert not np.allclose(np.linalg.norm(weights["W_dec"], axis=1), 1, atol=0.05)
    if listed:
        put(hub, entry.repo_id, files)
        sae = load_sae(manifest(release, sae_id))
    else:
        put(hub, "someone/scope", files)
        sae = load_sae(manifest("someone/scope", folder, format="llama_scope"))
    expected, rebuilt = llama_scope(rows().double().numpy(), tensors, said)
    check(sae, expected, rebuilt, None)
    np.testing.assert_allclose(sae.decoder, weights["W_dec"] / scale * ratio, rtol=1e-5)
    assert (sae.spec.model_name, sae.spec.site, sae.spec.layer) == ("meta-llama/Llama-3.1-8B", "resid_post", 3)
    if listed:
        assert load_sae(release, layer=3).spec.sae_id == sae.spec.sae_id
        theirs = SAE.from_pretrained(release, sae_id).encode(rows()).detach().numpy()
        same = np.allclose(theirs, expected, atol=1e-4)
        assert same is (not include_norm), "where sae-lens has the authors' gate, this loader is not needed any more"


def test_llama_scope_of_unit_decoder_rows_is_that_of_sae_lens_and_a_transcoder_is_refused(hub: Path) -> None:
    release, sae_id = "llama_scope_lxr_8x", "l3r_8x"
    entry = get_pretrained_saes_directory()[release]
    scale, folder = entry.norm_scaling_factor[sae_id], entry.saes_map[sae_id]
    weights = random(D, S)
    rows_sd = weights["W_dec"] / np.linalg.norm(weights["W_dec"], axis=1, keepdims=True)
    norm = math.sqrt(D) / scale
    said = {
        "d_model": D,
        "d_sae": S,
        "jump_relu_threshold": 0.02,
        "dataset_average_activation_norm": {"in": norm, "out": norm},
        "sparsity_include_decoder_norm": True,
        "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
    }
    values = (weights["W_enc"].T / scale, weights["b_enc"], rows_sd.T, weights["b_dec"])
    tensors = {n: torch.from_numpy(np.ascontiguousarray(v)) for n, v in zip(LLAMA_SCOPE, values, strict=True)}
    weights_file = {f"{folder}/checkpoints/final.safetensors": safetensors_bytes(tensors)}
    put(hub, entry.repo_id, {f"{folder}/hyperparams.json": as_json(said), **weights_file})
    sae, theirs = load_sae(manifest(release, sae_id)), SAE.from_pretrained(release, sae_id)
    features = sae.encode(rows())
    assert (features > 0).any()
    np.testing.assert_allclose(features, theirs.encode(rows()).detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(rows()), theirs(rows()).detach(), rtol=1e-3, atol=1e-4)
    bad = {"a transcoder": said | {"hook_point_out": "blocks.3.hook_mlp_out"}}
    bad["no positive number"] = said | {"dataset_average_activation_norm": {"in": norm, "out": 0.0}}
    for match, broken in bad.items():
        put(hub, "someone/broken", {f"{folder}/hyperparams.json": as_json(broken), **weights_file})
        with pytest.raises((UsageError, DamagedError), match=match):
            load_sae(manifest("someone/broken", folder, format="llama_scope"))
