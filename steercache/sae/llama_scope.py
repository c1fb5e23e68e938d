"""Llama Scope's SAEs through sae-lens' loader, with the gate and the scaling of their authors put in.

The authors' code (OpenMOSS, Language-Model-SAEs) scales rows by s = sqrt(d) / their mean norm before the encoder, and output by
its own factor back; a feature fires where its activation in raw units, times the norm of its decoder row in raw units, exceeds
`jump_relu_threshold` (`sparsity_include_decoder_norm`, true where published). sae-lens 6.54 leaves the norms of the decoder
rows out, takes the factor of the input for the output too, and folds no factor in for a repository that it does not list. Where
decoder rows have unit norm and both factors are equal, it computes the same.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steercache.core.errors import DamagedError, UsageError

HYPERPARAMETERS = "hyperparams.json"


def from_hub(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,
    cfg_overrides: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any], None]:
    """A loader for `SAE.from_pretrained`.

    Raises:
        DamagedError: `hyperparams.json` lacks a number. UsageError: a transcoder, which rebuilds other rows than it reads.
    """
    from sae_lens.loading import pretrained_sae_loaders as loaders

    file: Callable[..., str] = loaders.hf_hub_download
    path = Path(file(repo_id, filename=f"{folder_name}/{HYPERPARAMETERS}"))
    said = json.loads(path.read_text())
    scale_in, scale_out, threshold = _numbers(said, str(path))
    config, state, _ = loaders.llama_scope_sae_huggingface_loader(
        repo_id, folder_name, device, force_download, cfg_overrides
    )
    gate = state["W_dec"].norm(dim=-1) if said.get("sparsity_include_decoder_norm", True) else None
    state["threshold"][:] = threshold * scale_in if gate is None else threshold * scale_out / gate.clamp(min=1e-30)
    state["W_enc"] = state["W_enc"] * scale_in
    state["W_dec"] = state["W_dec"] / scale_out
    state["b_dec"] = state["b_dec"] / scale_out
    return {**config, "normalize_activations": "none"}, state, None


def _numbers(said: Any, place: str) -> tuple[float, float, float]:
    """Factor of the input, factor of the output, and threshold. Raises as `from_hub`."""
    if not isinstance(said, Mapping):
        raise DamagedError("no configuration of Llama Scope", place=place)
    hooks = said.get("hook_point_in"), said.get("hook_point_out", said.get("hook_point_in"))
    if hooks[0] != hooks[1]:
        raise UsageError(f"a transcoder is not read: it maps {hooks[0]} to {hooks[1]}", place=place)
    norms = said.get("dataset_average_activation_norm")
    norms = norms if isinstance(norms, Mapping) else {}
    found = {
        "d_model": said.get("d_model"),
        "dataset_average_activation_norm.in": norms.get("in"),
        "dataset_average_activation_norm.out": norms.get("out", norms.get("in")),
        "jump_relu_threshold": said.get("jump_relu_threshold"),
    }
    wrong = [name for name, value in found.items() if not _is_number(value)]
    if wrong:
        raise DamagedError(f"{', '.join(wrong)}: no positive number", place=place)
    d_model, norm_in, norm_out, threshold = (float(value) for value in found.values() if value is not None)
    return math.sqrt(d_model) / norm_in, math.sqrt(d_model) / norm_out, threshold


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
