"""Where nothing is to be had: no network but a hub cache that the environment names, or no sae-lens."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from steercache.core.errors import MissingExtraError
from steercache.sae.loading import load_sae
from tests.sae.folders import inference, saved
from tests.sae.hub import as_json, put, random, safetensors_bytes

PROGRAM = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked")
socket.socket.connect = refuse
import steercache
print(steercache.load_sae("llama_scope_lxr_8x-l3").spec.sae_id)
"""


def put_llama_scope(cache: Path) -> None:
    entry = get_pretrained_saes_directory()["llama_scope_lxr_8x"]
    folder, scale, weights = entry.saes_map["l3r_8x"], entry.norm_scaling_factor["l3r_8x"], random(12, 40)
    said = {
        "d_model": 12,
        "d_sae": 40,
        "jump_relu_threshold": 0.1,
        "dataset_average_activation_norm": {"in": math.sqrt(12) / scale},
        "hook_point_in": "blocks.3.hook_resid_post",
    }
    tensors = {
        "encoder.weight": torch.from_numpy(weights["W_enc"].T.copy()),
        "decoder.weight": torch.from_numpy(weights["W_dec"].T.copy()),
        "encoder.bias": torch.from_numpy(weights["b_enc"]),
        "decoder.bias": torch.from_numpy(weights["b_dec"]),
    }
    files = {
        f"{folder}/hyperparams.json": as_json(said),
        f"{folder}/checkpoints/final.safetensors": safetensors_bytes(tensors),
    }
    put(cache, entry.repo_id, files)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_a_new_process_finds_the_hubs_cache_by_the_environment_and_asks_no_network(
    variable: str, hub: Path, tmp_path: Path
) -> None:
    put_llama_scope(hub)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {variable: str(hub if variable == "HF_HUB_CACHE" else tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [load_sae("llama_scope_lxr_8x-l3").spec.sae_id]


def test_without_sae_lens_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(inference("standard"), tmp_path / "sae")
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(MissingExtraError) as caught:
        load_sae(folder)
    assert caught.value.hint == "pip install 'steercache[sae]'"
    assert caught.value.exit_code == 6
