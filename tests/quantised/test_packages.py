"""Weights of bitsandbytes, torchao, compressed-tensors, GPTQ and AWQ by value, where these packages are installed."""

import json
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import steercache
from steercache.core.errors import DamagedError, SteercacheError, UsageError
from steercache.core.vectors import SteeringVector
from steercache.models.load import load_model
from steercache.models.quantised_modules import gradient_obstacle
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch_from
from steercache.steering.cells import BranchCell
from steercache.steering.gradient import margin_gradients
from steercache.steering.prefill import run_prefill
from steercache.steering.recompute import obstacle_of, recompute
from steercache.trace.batches import PaddedBatch
from steercache.trace.capture import capture, model_inputs
from steercache.trace.numerics import numerics_of
from tests.models.tiny import N_LAYERS, manifest_of
from tests.quantised.folders import WIDTH, dense, weights_of, write
from tests.steering.small import padded_batch
from tests.tracing import write_small_trace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of five other people's packages
AT_LOAD: dict[str, dict[str, Any]] = {
    "llm.int8": {"method": "bitsandbytes", "bits": 8},
    "int8": {"method": "bitsandbytes", "bits": 8, "outliers": 0.0},
    "nf4": {"method": "bitsandbytes", "bits": 4},
    "fp4, nested": {"method": "bitsandbytes", "bits": 4, "codes": "fp4", "nested": True},
    "torchao int8": {"method": "torchao"},
    "torchao float8": {"method": "torchao", "weights": "float8"},
    "torchao int8, dynamic": {"method": "torchao", "weights": "int8-dynamic"},
}
STORED = {
    "fp8": None,
    "compressed-fp8": "compressed_tensors",
    "compressed-int4": "compressed_tensors",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
}
SAVED = ("int8", "nf4", "fp4, nested", "torchao int8", "torchao float8", "torchao int8, dynamic")
NO_GRADIENT = {"nf4", "fp4, nested", "torchao int8, dynamic", "compressed-fp8", "gptq", "awq"}


@dataclass(frozen=True)
class Case:
    name: str
    folder: Path
    loaded: LoadedModel
    plain: Any  # the dense model, of the weights that the codes stand for where they are known

    @property
    def batch(self) -> PaddedBatch:
        return padded_batch("llama")


def load(folder: Path, **fields: Any) -> LoadedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model(manifest_of(folder, **fields), cache_dir=folder.parent / "cache", device="cpu")


@pytest.fixture(scope="module", params=[*AT_LOAD, *STORED])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, folder = request.param, tmp_path_factory.mktemp("quantised") / "model"
    package = AT_LOAD[name]["method"] if name in AT_LOAD else STORED[name]
    if package is not None:
        pytest.importorskip(package)
    if name in AT_LOAD:
        meant, loaded = weights_of(dense(folder)), load(dense(folder), quantization=AT_LOAD[name])
    else:
        meant = write(folder, name)
        loaded = load(folder)
    like = dense(folder.parent / "dense")
    plain = AutoModelForCausalLM.from_pretrained(like, dtype=torch.bfloat16, attn_implementation="eager").eval()
    plain.load_state_dict({n: x.bfloat16() for n, x in meant.items()})
    return Case(name, folder, loaded, plain)


@torch.inference_mode()
def test_rows_are_those_of_the_weights_that_the_codes_stand_for(case: Case) -> None:
    rows = capture(case.loaded, case.batch, sites=("resid_post",), layers=range(N_LAYERS))["resid_post"]
    own = case.loaded.model(**model_inputs(case.loaded, case.batch), output_hidden_states=True).hidden_states
    plain = case.plain(**model_inputs(case.loaded, case.batch), output_hidden_states=True).hidden_states
    real = case.batch.attention_mask.bool()
    for layer in range(N_LAYERS - 1):
        assert torch.equal(rows[layer][real], own[layer + 1][real])
        expected = plain[layer + 1][real].float()
        moved = (rows[layer][real].float() - expected).norm() / expected.norm()
        exact = case.name in (
            "fp8",
            "compressed-int4",
        )  # unpacked to bfloat16; others round activations, or sum in other order
        coarse = {"nf4": 0.3, "fp4, nested": 0.4}.get(case.name, 0.1)
        assert (moved == 0) if exact else 0 < moved < coarse, moved


def test_the_scheme_is_in_fingerprint_and_numerics(case: Case) -> None:
    quantised = case.loaded.spec.quantised
    assert quantised is not None
    assert quantised.at_load == (case.name in AT_LOAD)
    found = numerics_of(case.loaded)["quantised"]
    assert found["method"] == quantised.method
    assert all(isinstance(found[package], str) for package in quantised.packages)
    assert sum(found["modules"].values()) == 7 * N_LAYERS
    assert case.loaded.spec.fingerprint != load(dense(case.folder.parent / "dense")).spec.fingerprint


def cells() -> list[BranchCell]:
    rows = (np.random.default_rng(5).normal(size=(3, WIDTH)) * 2).astype(np.float32)
    return [
        BranchCell(key=f"{target}@{layer}", layer=layer, delta_d=row, target=target)
        for layer, row, target in zip((0, 1, 1), rows, ("all", "text", "last"), strict=True)
    ]


@torch.inference_mode()
def test_branches_are_the_full_forward_or_are_refused(case: Case) -> None:
    prefill = run_prefill(case.loaded, case.batch, layers=range(N_LAYERS))
    if case.name == "llm.int8":
        assert "outlier columns" in str(prefill.obstacle)
        assert obstacle_of(case.loaded, case.batch) == prefill.obstacle
        return
    assert prefill.obstacle is None
    options = BranchOptions(max_new_tokens=1, same_batch=True)
    branched = {a.key: a.logits_bv for a in branch_from(prefill, cells(), options)}
    whole = {a.key: a.logits_bv for a in recompute(case.loaded, case.batch, cells(), options)}
    assert branched.keys() == whole.keys()
    for key, logits in whole.items():
        assert torch.equal(branched[key], logits), key
        assert not torch.equal(prefill.logits_bv, logits), key


@torch.inference_mode()
def test_rows_do_not_depend_on_their_batch_where_branches_are_not_refused(case: Case) -> None:
    """One row of the batch is made thirty times as long: the others' rows of the next block stay, or an obstacle is named."""
    quantised = case.loaded.spec.quantised
    assert quantised is not None
    linear = next(m for n, m in case.loaded.model.named_modules() if n.endswith("layers.1.mlp.up_proj"))
    rows = torch.randn(1, 6, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
    longer = torch.cat([rows[:, :5], 30 * rows[:, 5:]], dim=1)
    same = torch.equal(linear(rows)[:, :5], linear(longer)[:, :5])
    assert same == (quantised.mixes_rows is None)


@torch.inference_mode()
def test_a_live_vector_lands_on_the_stated_rows_of_a_quantised_block(case: Case) -> None:
    cell = cells()[1]
    vector = SteeringVector(
        name="v", method="m", concept=None, site="resid_post", layers=(cell.layer,), values=cell.delta_d[None]
    )
    inputs = model_inputs(case.loaded, case.batch)
    seen: list[torch.Tensor] = []
    above = case.loaded.model.model.layers[cell.layer + 1]
    handle = above.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    case.loaded.model(**inputs)
    with steercache.steer(case.loaded, vector, layer=cell.layer, alpha=1.0, target="all"):
        case.loaded.model(**inputs)
    handle.remove()
    before, after = seen
    real = case.batch.attention_mask.bool()
    expected = (before.float() + torch.from_numpy(cell.delta_d)).bfloat16()
    torch.testing.assert_close(after[real], expected[real], rtol=2**-7, atol=0)


def test_gradients_are_right_or_refused(case: Case) -> None:
    """Gradients of the margin at block 1 against differences of steered margins; many kernels of codes have no backward."""
    obstacle = gradient_obstacle(case.loaded.model, case.loaded.envoys)
    assert (obstacle is not None) == (case.name in NO_GRADIENT)
    options = [[20, 30], [21, 31], [22, 32]]
    if obstacle is not None:
        with pytest.raises(UsageError, match="no gradients"):
            margin_gradients(case.loaded, case.batch, options, layers=[0], targets={"all": "all"})
        return
    found = margin_gradients(case.loaded, case.batch, options, layers=[0], targets={"all": "all"})
    plain = margin_gradients(
        LoadedModel(
            model=case.plain.requires_grad_(False), bundle=case.loaded.bundle, envoys={"gradient obstacle": None}
        ),
        case.batch,
        options,
        layers=[0],
        targets={"all": "all"},
    )
    a, b = found.values[0, :, 0, 0].astype(np.float64), plain.values[0, :, 0, 0].astype(np.float64)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.98


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_checkpoint_is_the_model_that_was_saved(name: str, tmp_path: Path) -> None:
    pytest.importorskip(AT_LOAD[name]["method"])
    made = load(dense(tmp_path / "model"), quantization=AT_LOAD[name])
    folder = tmp_path / "saved"
    made.model.save_pretrained(folder)  # before its first forward pass, which repacks 4-bit weights on a CPU
    made.tokenizer.save_pretrained(folder)
    loaded, batch = load(folder), padded_batch("llama")
    with torch.inference_mode():
        logits = [m.model(**model_inputs(m, batch)).logits for m in (made, loaded)]
    assert torch.equal(*logits)
    assert loaded.spec.quantised is not None
    assert (loaded.spec.quantised.method, loaded.spec.quantised.at_load) == (AT_LOAD[name]["method"], False)
    assert loaded.spec.fingerprint != made.spec.fingerprint


@pytest.mark.parametrize("name", [*SAVED, "compressed-fp8", "compressed-int4", "gptq", "awq"])
def test_a_checkpoint_that_lacks_any_of_its_scales_is_refused(name: str, tmp_path: Path) -> None:
    """Every tensor beside the codes of one weight, left out on its own."""
    pytest.importorskip(AT_LOAD[name]["method"] if name in AT_LOAD else str(STORED[name]))
    folder = tmp_path / "saved"
    if name in AT_LOAD:
        made = load(dense(tmp_path / "model"), quantization=AT_LOAD[name])
        made.model.save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
    else:
        write(folder, name)
    whole = weights_of(folder)
    optional = ("weight_format", "g_idx")  # transformers takes them from elsewhere
    beside = [n for n in whole if "layers.1.mlp.up_proj" in n and not n.endswith(optional)]
    assert len(beside) > 1
    for part in beside:
        save_like(folder, {n: x for n, x in whole.items() if n != part})
        with pytest.raises(SteercacheError) as caught:
            load(folder)
        assert isinstance(caught.value, DamagedError) or caught.value.hint, part


def save_like(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """With the metadata that the file had: torchao describes its tensors there."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(weights, folder / "model.safetensors", metadata=metadata)


def test_rows_of_one_folder_dense_and_quantised_are_runs_of_two_models(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    source = {"type": "path", "folder": str(dense(tmp_path / "model"))}
    for name, extra in (("plain", {}), ("quantised", {"quantization": {"method": "torchao"}})):
        folder = tmp_path / name
        folder.mkdir()
        manifest = {"kind": "model", "version": 1, "name": name, "source": source, **extra}
        write_small_trace(folder, n=6, model=manifest).build(tmp_path / "root")
    found = {}
    for path in (tmp_path / "root" / "runs").glob("*/run.json"):
        document = json.loads(path.read_text())
        found[document["model"]["name"]] = document
    plain, quantised = found["plain"], found["quantised"]
    assert plain["run_id"] != quantised["run_id"]
    assert quantised["model"]["kin"] == [plain["model"]["fingerprint"]]
    assert quantised["numerics"]["quantised"] == {"method": "torchao", "torchao": version("torchao")}
    assert "quantised" not in plain["numerics"]
