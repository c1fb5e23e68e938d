"""SAE folders from elsewhere: what is wrong is said, nothing is run, nothing large is allocated."""

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from steercache.core.errors import (
    BudgetError,
    DamagedError,
    NotFoundError,
    SteercacheError,
    SteercacheWarning,
    UsageError,
)
from steercache.sae import memory
from steercache.sae.loading import load_sae
from tests.sae.folders import D_IN, D_SAE, inference, rows, saved
from tests.sae.hub import as_json, npz, put, random, torch_bytes
from tests.sae.releases import manifest, narrow

WEIGHTS = "sae_weights.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(inference("jumprelu"), tmp_path / "sae")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / WEIGHTS)


def set_to(name: str, value: torch.Tensor | None) -> Callable[[Path], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value

    return lambda folder: change_weights(folder, change)


def poke(name: str, value: float) -> Callable[[Path], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[3] = value

    return lambda folder: change_weights(folder, change)


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_config(folder, **changes)


def described(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        change_config(folder, metadata=json.loads((folder / "cfg.json").read_text())["metadata"] | changes)

    return change


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def written(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


HUGE_HEADER = (2**40).to_bytes(8, "little") + b"{}"
BAD: dict[str, tuple[Callable[[Path], Any], type[SteercacheError], str]] = {
    "W_enc of another shape": (set_to("W_enc", torch.zeros(D_IN, D_SAE + 1)), DamagedError, "W_enc"),
    "W_dec transposed": (set_to("W_dec", torch.zeros(D_IN, D_SAE)), DamagedError, "W_dec"),
    "a threshold of one value": (set_to("threshold", torch.zeros(1)), DamagedError, "threshold"),
    "b_dec missing": (set_to("b_dec", None), DamagedError, "b_dec"),
    "threshold missing": (set_to("threshold", None), DamagedError, "threshold"),
    "a tensor too many": (set_to("W_extra", torch.zeros(3)), DamagedError, "W_extra"),
    "NaN": (poke("W_enc", float("nan")), DamagedError, "1 of 480 values of W_enc are NaN or infinite"),
    "infinity": (poke("threshold", float("inf")), DamagedError, "1 of 40 values of threshold"),
    "truncated": (cut, DamagedError, "sae-lens cannot load it"),
    "empty weights": (written(WEIGHTS, b""), DamagedError, "sae-lens cannot load it"),
    "a header that claims a terabyte": (written(WEIGHTS, HUGE_HEADER), DamagedError, "sae-lens cannot load it"),
    "a pickle under the name": (written(WEIGHTS, pickle.dumps({"a": 1})), DamagedError, "sae-lens cannot load it"),
    "no JSON": (written("cfg.json", b"{"), DamagedError, "sae-lens cannot load it"),
    "JSON that is a list": (written("cfg.json", b"[1]"), DamagedError, "sae-lens cannot load it"),
    "a configuration of many megabytes": (written("cfg.json", b" " * 2**25), DamagedError, "no configuration"),
    "nested too deep": (written("cfg.json", b"[" * 100_000), DamagedError, "sae-lens cannot load it"),
    "unknown architecture": (configured(architecture="quantum"), DamagedError, "no architecture 'quantum'"),
    "architecture is a list": (configured(architecture=["jumprelu"]), DamagedError, "sae-lens cannot load it"),
    "a transcoder": (configured(architecture="transcoder"), UsageError, "the input of a layer to its output"),
    "a temporal SAE": (configured(architecture="temporal"), UsageError, "rows before it"),
    "d_in missing": (configured(d_in=None), DamagedError, "d_in None"),
    "d_sae negative": (configured(d_sae=-4), DamagedError, "d_sae -4"),
    "d_sae is text": (configured(d_sae="40"), DamagedError, "d_sae '40'"),
    "d_sae is true": (configured(d_sae=True), DamagedError, "d_sae True"),
    "d_sae enormous": (configured(d_sae=10**12), BudgetError, "an SAE of 12 x 1,000,000,000,000 needs"),
    "attention heads": (configured(reshape_activations="hook_z"), UsageError, "attention heads"),
    "whitened": (configured(normalize_activations="covariance_whitening"), UsageError, "whitened"),
    "a hook that is a number": (described(hook_name=5), DamagedError, "metadata have hook_name 5"),
    "a context that is a text": (described(context_size="64"), DamagedError, "context_size '64'"),
    "a setting of another type": (configured(apply_b_dec_to_input=None), DamagedError, "sae-lens cannot load it"),
    "a setting that overflows": (configured(apply_b_dec_to_input=1e308), DamagedError, "NaN or infinite"),
    "unknown normalisation": (configured(normalize_activations="magic"), DamagedError, "normalize_activations"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_refused_with_a_clear_error(name: str, folder: Path) -> None:
    spoil, kind, words = BAD[name]
    spoil(folder)
    with pytest.raises(kind, match=re.escape(words)) as caught:
        load_sae(folder)
    assert type(caught.value) is kind
    assert str(folder) in str(caught.value)
    assert "\n" not in caught.value.message


ODD = [
    None,
    True,
    0,
    -1,
    2**40,
    1e308,
    float("nan"),
    "",
    "x",
    "layer_norm",
    "hook_z",
    [],
    [1],
    {},
    {"a": 1},
    "topk",
    12,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_a_configuration_of_any_values_is_refused_or_computes(architecture: str, tmp_path: Path) -> None:
    """Values of other types anywhere in the configuration: nothing but an error of ours comes out."""
    drawn = np.random.default_rng(0)
    folder = saved(inference(architecture), tmp_path / "sae")
    first = (folder / "cfg.json").read_text()
    n_refused = 0
    for _ in range(60):
        config = json.loads(first)
        inside = config["metadata"] if drawn.random() < 0.5 else config
        inside[str(drawn.choice([*inside, "more"]))] = ODD[drawn.integers(len(ODD))]
        (folder / "cfg.json").write_text(json.dumps(config))
        try:
            sae = load_sae(folder)
        except SteercacheError:
            n_refused += 1
            continue
        assert sae.reconstruct(rows()).isfinite().all()
        json.dumps(sae.spec.record())
    assert 0 < n_refused < 60


@pytest.mark.parametrize("k", [0, D_SAE + 1, -3, "many", True])
def test_a_k_that_is_no_number_of_features_is_refused(k: Any, tmp_path: Path) -> None:
    folder = saved(inference("topk", k=4), tmp_path / "sae")
    change_config(folder, k=k)
    with pytest.raises(DamagedError, match=f"k {k!r} of 40 features"):
        load_sae(folder)


def test_what_is_no_folder_says_so(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no cfg\.json"):
        load_sae(tmp_path)
    (folder / WEIGHTS).unlink()
    with pytest.raises(NotFoundError, match="no sae_weights"):
        load_sae(folder)
    with pytest.raises(NotFoundError, match="no sae manifest named 'not-there'"):
        load_sae("not-there")
    with pytest.raises(UsageError, match="no device 'abacus'"):
        load_sae(saved(inference("standard"), tmp_path / "fine"), device="abacus")
    with pytest.raises(UsageError, match="float8"):
        load_sae(folder, dtype="float8")


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("name", ["ae.pt", "sae.pkl", "pytorch_model.bin"])
def test_a_folder_of_pickles_is_refused_unopened(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(UsageError, match=rf"pickle \({re.escape(name)}\)"):
        load_sae(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("environment", ["0", "1"])
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_release_whose_weights_run_code_is_refused_whatever_the_environment_says(
    kind: str, environment: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sae-lens calls `torch.load` for five kinds of release; `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD` would let it run code."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", environment)
    release = next(
        r for r, e in get_pretrained_saes_directory().items() if e.conversion_func == "dictionary_learning_1"
    )
    entry = get_pretrained_saes_directory()[release]
    sae_id, inside = next(iter(entry.saes_map.items()))
    bomb = Bomb(tmp_path / "ran")
    content = pickle.dumps(bomb) if kind == "pickle" else torch_bytes({"W_enc": bomb})
    trainer = {"dict_class": "AutoEncoder", "activation_dim": 12, "dict_size": 40, "layer": 2, "lm_name": "a/b"}
    config = as_json({"trainer": trainer, "buffer": {"ctx_len": 256}})
    put(hub, entry.repo_id, {f"{inside}/config.json": config, f"{inside}/ae.pt": content})
    with pytest.raises(DamagedError, match="never unpickled"):
        load_sae(manifest(release, sae_id))
    assert not (tmp_path / "ran").exists()


def test_every_unpickling_in_the_loaders_of_sae_lens_is_restricted() -> None:
    """Fails when a later sae-lens reads pickles in a way that `hub_files` does not cover."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    text = Path(str(loaders.__file__)).read_text()
    assert re.findall(r"\b(?:pickle|joblib|dill)\b", text) == []
    assert re.findall(r"allow_pickle=True|weights_only=False", text) == []
    assert re.findall(r"yaml\.(?:unsafe_load|load|full_load)\b", text) == []
    loads = re.findall(r"(\w+)\.load\((?!f\b|config_file)", text)
    assert set(loads) <= {"torch", "np"}


@pytest.mark.parametrize("objects", [True, False])
def test_an_npz_of_objects_or_of_another_shape_is_refused(
    objects: bool, hub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    narrow(monkeypatch, "gemma-scope-2b-pt-res")
    weights: dict[str, Any] = random(12, 40)
    weights["W_enc"] = np.array([Bomb(tmp_path / "ran")], dtype=object) if objects else weights["W_enc"][:, :5]
    inside = "layer_12/width_16k/average_l0_82"
    put(hub, "google/gemma-scope-2b-pt-res", {f"{inside}/params.npz": npz(**weights)})
    with pytest.raises(DamagedError, match="Object arrays" if objects else "W_enc"):
        load_sae(manifest("gemma-scope-2b-pt-res", inside))
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_into_memory_are_refused_before_they_are_read(
    hub: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_sae(folder)
    monkeypatch.setattr(memory, "free_bytes", lambda: 5_000)
    with pytest.raises(BudgetError, match="an SAE of 12 x 40 needs"):
        load_sae(folder)
    # A zip of zeros expands a thousandfold: its directory says so.
    narrow(monkeypatch, "gemma-scope-2b-pt-res")
    monkeypatch.setattr(memory, "free_bytes", lambda: 20_000_000)
    inside = "layer_12/width_16k/average_l0_82"
    import io

    out = io.BytesIO()
    np.savez_compressed(out, W_enc=np.zeros((10_000, 1_000), np.float32))
    assert len(out.getvalue()) < 1_000_000
    put(hub, "google/gemma-scope-2b-pt-res", {f"{inside}/params.npz": out.getvalue()})
    with pytest.raises(BudgetError, match="this file of weights"):
        load_sae(manifest("gemma-scope-2b-pt-res", inside))


def test_a_file_that_is_cut_short_after_loading_changes_nothing(folder: Path) -> None:
    sae = load_sae(folder)
    before = sae.encode(rows())
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(100)
    assert torch.equal(sae.encode(rows()), before)


def test_free_memory_is_known_here() -> None:
    free = memory.free_bytes()
    assert free is None or 2**20 < free < 2**50


def test_a_release_or_id_that_is_not_listed_or_not_here_says_what_to_do(hub: Path) -> None:
    with pytest.raises(NotFoundError, match=r"lists no release 'gemma-scope-2b-pt-ress'.*gemma-scope-2b-pt-res"):
        load_sae(manifest("gemma-scope-2b-pt-ress", "layer_12/width_16k/canonical"))
    with pytest.raises(NotFoundError, match=r"no SAE 'layer_12/width_16k/canonicall'.*did you mean"):
        load_sae(manifest("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonicall"))
    with pytest.raises(NotFoundError, match="not in the hub's cache") as caught:
        load_sae("gemma-scope-2b-pt-res-canonical-l12")
    folder = get_pretrained_saes_directory()["gemma-scope-2b-pt-res-canonical"].saes_map["layer_12/width_16k/canonical"]
    assert caught.value.hint == f"hf download google/gemma-scope-2b-pt-res --include '{folder}*'"
    with pytest.raises(NotFoundError, match="not in the hub's cache"):
        load_sae(manifest("nobody/knows-it", "a"))
    with pytest.raises(UsageError, match="format of a release that sae-lens lists is known"):
        load_sae(manifest("gemma-scope-2b-pt-res", "layer_12/width_16k/average_l0_82", format="gemma_2"))


def test_a_manifest_of_several_layers_wants_one(hub: Path) -> None:
    with pytest.raises(UsageError, match="no layer is named") as caught:
        load_sae("llama_scope_lxr_8x")
    assert caught.value.hint == "llama_scope_lxr_8x-l0"
    with pytest.raises(NotFoundError, match="no SAE of layer 77"):
        load_sae("llama_scope_lxr_8x-l77")


def test_an_unfolded_scaling_of_activations_is_said(folder: Path) -> None:
    change_config(folder, normalize_activations="expected_average_only_in")
    with pytest.warns(SteercacheWarning, match="trained on scaled activations"):
        load_sae(folder)
