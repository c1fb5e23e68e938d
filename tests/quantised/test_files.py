"""Checkpoints of quantised weights: loaded whole and by value, or refused by name, with what the hub's folders hold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from steercache.core.errors import DamagedError, ManifestError, MissingExtraError, SteercacheError
from steercache.core.lineage import lineage_of
from steercache.core.numerics import numeric_differences
from steercache.core.vectors import FittedOn
from steercache.models.checkpoint_folder import read_checkpoint
from steercache.models.companions import refuse_incomplete
from steercache.models.load import load_bundle, load_model
from steercache.models.quantised import Quantised
from steercache.models.spec import LoadedModel
from steercache.steering.prefill import run_prefill
from steercache.steering.replay import idle_prefill
from steercache.trace.numerics import numerics, numerics_of
from tests.models.tiny import manifest_of
from tests.quantised.folders import dense, edit_config, save, weights_of, write
from tests.steering.small import padded_batch, small_model

IDS = torch.arange(3, 27).reshape(2, 12)
UP = "model.layers.0.mlp.up_proj.weight"


def load(folder: Path, **fields: Any) -> LoadedModel:
    return load_model(manifest_of(folder, **fields), cache_dir=folder.parent / "cache", device="cpu")


@torch.inference_mode()
def logits_of_dense(folder: Path, meant: dict[str, torch.Tensor], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Of the same configuration without its quantisation, on the weights that the codes stand for."""
    dense(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    model.load_state_dict({name: value.to(dtype) for name, value in meant.items()})
    return model.eval()(IDS).logits


def test_an_fp8_checkpoint_computes_on_its_weights_unpacked(tmp_path: Path) -> None:
    meant = write(tmp_path / "fp8", "fp8")
    loaded = load(tmp_path / "fp8")
    with torch.inference_mode():
        found = loaded.model(IDS).logits
    assert torch.equal(found, logits_of_dense(tmp_path / "dense", meant))
    assert (loaded.spec.dtype, loaded.spec.quantised.method) == ("bfloat16", "fp8")  # type: ignore[union-attr]
    assert numerics_of(loaded)["quantised"] == {"method": "fp8", "modules": {"Linear": 21}}


# What is wrong in a folder that transformers would load without an error.


def without_a_scale(folder: Path) -> None:
    weights = weights_of(folder)
    del weights[f"{UP}_scale_inv"]
    save(folder, weights)


def scale_of_dense_weights(folder: Path) -> None:
    save(folder, weights_of(folder) | {"model.embed_tokens.weight_scale_inv": torch.ones(1, 1)})


def dense_weights_beside_a_scale(folder: Path) -> None:
    save(folder, weights_of(folder) | {UP: torch.ones(128, 64, dtype=torch.bfloat16)})


def a_cut_block(folder: Path) -> None:  # 128 rows in blocks of 96: two scales, the second for 32 rows
    weights = weights_of(folder)
    for name in [n for n in weights if n.endswith("_scale_inv")]:
        rows, columns = (-(-n // 96) for n in weights[name.removesuffix("_scale_inv")].shape)
        weights[name] = torch.ones(rows, columns)
    save(folder, weights)
    edit_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [96, 96]})


WRONG: list[tuple[Callable[[Path], None], type[SteercacheError], str]] = [
    (without_a_scale, DamagedError, rf"1 tensors .* fp8 .*not in its files: {UP}_scale_inv"),
    (scale_of_dense_weights, ManifestError, r"1 FP8 scales .*embed_tokens\.weight_scale_inv"),
    (dense_weights_beside_a_scale, ManifestError, rf"1 FP8 scales .*{UP}_scale_inv"),
    (a_cut_block, ManifestError, r"9 FP8 weights are no whole number of blocks of 96 x 96"),
]


@pytest.mark.parametrize(("spoil", "error", "words"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_fp8_scales_that_do_not_belong_to_the_codes_are_refused(
    spoil: Callable[[Path], None], error: type[SteercacheError], words: str, tmp_path: Path
) -> None:
    write(tmp_path / "fp8", "fp8")
    spoil(tmp_path / "fp8")
    with pytest.raises(error, match=words) as caught:
        load(tmp_path / "fp8")
    assert caught.value.hint


def test_fp8_weights_are_not_computed_in_a_dtype_that_transformers_does_not_unpack_to(tmp_path: Path) -> None:
    write(tmp_path / "fp8", "fp8")
    with pytest.raises(ManifestError, match=r"come as bfloat16, whatever dtype .*float32"):
        load(tmp_path / "fp8", dtype="float32")


CODES, SCALES = torch.zeros(8, 8, dtype=torch.uint8), torch.ones(4)
STATE = "a.weight.quant_state.bitsandbytes__nf4"
NF4 = {"a.weight": CODES, "a.weight.quant_map": SCALES}
PARTS: dict[str, tuple[str, dict[str, torch.Tensor], str | None]] = {
    "int8": ("bitsandbytes", {"a.weight": CODES.char(), "a.SCB": SCALES}, None),
    "int8 without scales": ("bitsandbytes", {"a.weight": CODES.char()}, r"a\.SCB"),
    "nf4": ("bitsandbytes", NF4 | {"a.weight.absmax": SCALES, STATE: CODES}, None),
    "nf4 without state": ("bitsandbytes", NF4 | {"a.weight.absmax": SCALES}, "quant_state"),
    "nf4 without scales": ("bitsandbytes", NF4 | {STATE: CODES}, r"weight\.absmax"),
    "nested without its own": (
        "bitsandbytes",
        NF4 | {"a.weight.absmax": CODES, STATE: CODES},
        r"nested_absmax, a\.weight\.nested_quant_map",
    ),
    "gptq": ("gptq", {"a.qweight": CODES.int(), "a.qzeros": CODES.int(), "a.scales": SCALES}, None),
    "awq without zeros": ("awq", {"a.qweight": CODES.int(), "a.scales": SCALES}, r"a\.qzeros"),
    "mxfp4 without scales": ("mxfp4", {"a.gate_up_proj_blocks": CODES}, "gate_up_proj_scales"),
    "fp8, scales by other names": ("fp8", {"a.weight": CODES.to(torch.float8_e4m3fn), "a.scale": SCALES}, None),
    "a method that stores nothing beside": ("hqq", {"a.weight": CODES}, None),
}


@pytest.mark.parametrize("name", PARTS)
def test_what_a_method_stores_beside_its_codes_is_looked_for(name: str, tmp_path: Path) -> None:
    method, tensors, missing = PARTS[name]
    dense(tmp_path / "model")
    save(tmp_path / "model", tensors)
    edit_config(tmp_path / "model", quantization_config={"quant_method": method})
    checkpoint = read_checkpoint(tmp_path / "model", model_id="m")
    if missing is None:
        refuse_incomplete(checkpoint)
    else:
        with pytest.raises(DamagedError, match=missing):
            refuse_incomplete(checkpoint)


# Quantising at load: identity, and what is not installed.

HOW: list[dict[str, Any]] = [
    {"method": "bitsandbytes", "bits": 8},
    {"method": "bitsandbytes", "bits": 8, "outliers": 0.0},
    {"method": "bitsandbytes", "bits": 4},
    {"method": "bitsandbytes", "bits": 4, "nested": True},
    {"method": "bitsandbytes", "bits": 4, "codes": "fp4"},
    {"method": "torchao"},
    {"method": "torchao", "weights": "float8"},
]


def test_every_scheme_is_a_model_of_its_own_and_kin_of_the_weights_it_came_from(tmp_path: Path) -> None:
    folder, cache = dense(tmp_path / "model"), tmp_path / "cache"
    plain = load_bundle(manifest_of(folder), cache_dir=cache).spec
    specs = [load_bundle(manifest_of(folder, quantization=how), cache_dir=cache).spec for how in HOW]
    assert len({plain.fingerprint, *(spec.fingerprint for spec in specs)}) == len(HOW) + 1
    assert all(spec.kin == (plain.fingerprint,) for spec in specs)
    fitted_on = FittedOn(name="plain", fingerprint=plain.fingerprint, modality="text")
    assert {lineage_of(fitted_on, spec) for spec in specs} == {"own"}
    assert plain.quantised is None
    written_out = {"method": "bitsandbytes", "bits": 4, "codes": "nf4", "nested": False}
    assert (
        load_bundle(manifest_of(folder, quantization=written_out), cache_dir=cache).spec.fingerprint
        == specs[2].fingerprint
    )


def test_the_manifest_decides_the_identity_and_not_its_defaults(tmp_path: Path) -> None:
    base = manifest_of(tmp_path)
    found = [manifest_of(tmp_path, quantization=how).identity() for how in HOW]
    assert len({str(one) for one in [base.identity(), *found]}) == len(HOW) + 1
    assert base.identity() == {"dtype": "auto"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "bitsandbytes", "bits": 8, "codes": "nf4"},
        {"method": "bitsandbytes", "bits": 4, "outliers": 1.0},
        {"method": "bitsandbytes", "bits": 3},
        {"method": "gptq"},
    ],
)
def test_settings_of_other_bits_or_methods_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="quantization"):
        manifest_of(tmp_path, quantization=wrong)


def test_releases_of_the_packages_are_numerics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(manifest_of(dense(tmp_path / "model"), quantization=HOW[0]), cache_dir=tmp_path / "cache")
    monkeypatch.setattr("steercache.models.quantised._installed", lambda package: "1")
    before = numerics(bundle, device=torch.device("cpu"))
    monkeypatch.setattr("steercache.models.quantised._installed", lambda package: "2")
    now = numerics(bundle, device=torch.device("cpu"))
    assert numeric_differences(before, now) == ["quantised.bitsandbytes was '1', is '2'"]
    other_kernels = now | {"quantised": {**now["quantised"], "modules": {"Linear8bitLt": 2}}}
    assert numeric_differences(now, other_kernels) == [], "a plan without weights does not know them"


def test_weights_that_are_quantised_are_not_quantised_again(tmp_path: Path) -> None:
    write(tmp_path / "fp8", "fp8")
    with pytest.raises(ManifestError, match=r"asks for torchao .* quantised already \(fp8\)"):
        load_bundle(manifest_of(tmp_path / "fp8", quantization={"method": "torchao"}), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(("method", "extra"), [("bitsandbytes", "quantised"), ("torchao", "quantised")])
def test_a_package_that_is_not_installed_is_an_extra(method: str, extra: str, tmp_path: Path) -> None:
    if Quantised(method=method, settings={}, at_load=True).packages[method] is not None:
        pytest.skip(f"{method} is installed")
    how = {"method": method} | ({"bits": 8} if method == "bitsandbytes" else {})
    with pytest.raises(MissingExtraError, match=rf"quantised \({method}\)") as caught:
        load(dense(tmp_path / "model"), quantization=how)
    assert f"steercache[{extra}]" in str(caught.value.hint)
    assert "leave `quantization` out" in str(caught.value.hint)


def _rounded(strategy: str) -> dict[str, Any]:
    return {"config_groups": {"group_0": {"input_activations": {"dynamic": True, "strategy": strategy}}}}


MIXES: list[tuple[dict[str, Any], bool]] = [
    ({"load_in_8bit": True}, True),
    ({"load_in_8bit": True, "llm_int8_threshold": 0.0}, False),
    ({"load_in_4bit": True}, False),
    ({"bits": 8, "outliers": 6.0}, True),
    ({"bits": 8, "outliers": 0.0}, False),
]


def test_cells_of_models_that_mix_rows_are_computed_in_full_and_say_why() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    for settings, mixes in MIXES:
        of = Quantised(method="bitsandbytes", settings=settings, at_load=False)
        spec = replace(loaded.spec, quantised=of)
        quantised = replace(loaded, bundle=replace(loaded.bundle, spec=spec))
        found = [run_prefill(quantised, batch, layers=[0]).obstacle, idle_prefill(quantised, batch).obstacle]
        assert found == ([of.mixes_rows] * 2 if mixes else [None, None])
        assert (of.mixes_rows is not None) == mixes
    for strategy in ("tensor", "token"):
        of = Quantised(method="compressed-tensors", settings=_rounded(strategy), at_load=False)
        assert (of.mixes_rows is not None) == (strategy == "tensor")
