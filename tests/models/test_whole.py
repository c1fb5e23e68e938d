"""A checkpoint is wholly the model, or an error names the tensors; what is hashed is what is loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM
from transformers import modeling_utils as loader

from steercache.core.errors import BusyError, DamagedError, ManifestError, MissingExtraError, SteercacheError
from steercache.models import identity
from steercache.models.load import load_bundle, load_model
from steercache.models.quantised import EXTRAS
from steercache.models.spec import LoadedModel
from tests.models.tiny import N_LAYERS, TEXT_FAMILIES, WIDTH, manifest_of, write_tiny
from tests.models.tiny_images import MAKERS, write_tiny_images

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def load(folder: Path) -> LoadedModel:
    return load_model(manifest_of(folder), cache_dir=folder.parent / "cache", device="cpu")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def save(folder: Path, weights: dict[str, torch.Tensor], name: str = "model.safetensors") -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    save_file(weights, folder / name, metadata={"format": "pt"})


def with_tensors(folder: Path, **extra: torch.Tensor) -> None:
    save(folder, weights_of(folder) | extra)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    document = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document))


def split(folder: Path, *, below: str = "") -> None:
    """The checkpoint as two shards, the second in the subfolder `below`."""
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"one.safetensors": names[::2], f"{below}two.safetensors": names[1::2]}
    for file, some in parts.items():
        save(folder, {name: weights[name] for name in some}, file)
    write_index(folder, {name: file for file, some in parts.items() for name in some})


# What a checkpoint can hold beside its model, and the words of the error.


def biases(folder: Path) -> None:
    with_tensors(folder, **{f"model.layers.{i}.self_attn.{m}_proj.bias": torch.ones(8) for i in (0, 1) for m in "qkvo"})


def lora_factors(folder: Path) -> None:
    prefix = "model.layers.0.self_attn.q_proj.lora_"
    with_tensors(folder, **{f"{prefix}A.weight": torch.ones(2, WIDTH), f"{prefix}B.weight": torch.ones(WIDTH, 2)})


def unmerged_lora(folder: Path) -> None:
    weights = weights_of(folder)
    base = Q_PROJ.replace(".weight", ".base_layer.weight")
    weights |= {base: weights.pop(Q_PROJ), Q_PROJ.replace(".weight", ".lora_A.default.weight"): torch.ones(2, WIDTH)}
    save(folder, weights)


def more_layers(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=N_LAYERS - 1)


def fewer_layers(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=N_LAYERS + 1)


def missing_biases(folder: Path) -> None:
    edit_config(folder, attention_bias=True)


def scaled_codes(folder: Path) -> None:
    codes = torch.ones(WIDTH, WIDTH, dtype=torch.int8)
    with_tensors(folder, **{Q_PROJ: codes, f"{Q_PROJ}_scale": torch.ones(WIDTH, 1)})


def fp8_codes(folder: Path) -> None:
    with_tensors(folder, **{Q_PROJ: weights_of(folder)[Q_PROJ].to(torch.float8_e4m3fn)})


def scales_alone(folder: Path) -> None:
    with_tensors(folder, **{f"{Q_PROJ}_scale_inv": torch.ones(1, 1)})


def gptq_codes(folder: Path) -> None:
    weights = weights_of(folder)
    del weights[Q_PROJ]
    save(folder, weights | {Q_PROJ.replace("weight", "qweight"): torch.ones(4, WIDTH, dtype=torch.int32)})


def no_head(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).model.save_pretrained(folder)


def other_vocabulary(folder: Path) -> None:
    edit_config(folder, vocab_size=331)


PARTIAL: list[tuple[Callable[[Path], None], type[SteercacheError], str, str]] = [
    (
        biases,
        DamagedError,
        r"8 tensors of .* not part of the model .*layers\.0\.self_attn\.k_proj\.bias",
        "config.json",
    ),
    (lora_factors, ManifestError, r"q_proj\.lora_A\.weight.*adapter's factors", "merge_and_unload"),
    (unmerged_lora, ManifestError, r"lora_A\.default\.weight.*adapter's factors", "merge_and_unload"),
    (more_layers, DamagedError, r"model\.layers\.2\..*says 2 layers and the file has 3", "config.json"),
    (fewer_layers, DamagedError, r"9 weights are missing .*model\.layers\.3\.", "fetch"),
    (missing_biases, DamagedError, r"12 weights are missing .*self_attn\.k_proj\.bias", "config.json"),
    (scaled_codes, ManifestError, rf"1 weights are stored as I8 .*{Q_PROJ}", "unquantised"),
    (fp8_codes, ManifestError, rf"1 weights are stored as F8_E4M3 .*{Q_PROJ}", "unquantised"),
    (scales_alone, ManifestError, rf"{Q_PROJ}_scale_inv; its weights are quantised", "unquantised"),
    (gptq_codes, ManifestError, r"stored as I32 .*q_proj\.qweight", "unquantised"),
    (
        no_head,
        ManifestError,
        r"no language-model head \(lm_head.weight is missing\): .* LlamaModel",
        "AutoModelForCausal",
    ),
    (
        other_vocabulary,
        DamagedError,
        r"2 weights .* wrong shape: lm_head\.weight, model\.embed_tokens\.weight",
        "config",
    ),
]


@pytest.mark.parametrize(("change", "kind", "words", "remedy"), PARTIAL, ids=[c.__name__ for c, *_ in PARTIAL])
def test_a_checkpoint_that_is_not_wholly_the_model_is_refused_by_tensor_name(
    change: Callable[[Path], None], kind: type[SteercacheError], words: str, remedy: str, tmp_path: Path
) -> None:
    folder = write_tiny("llama", tmp_path / "model", tie_word_embeddings=False)
    change(folder)
    with pytest.raises(kind, match=words) as caught:
        load(folder)
    assert remedy in str(caught.value.hint)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("family", "name"),
    [  # transformers drops these by name, and says nothing
        ("gpt2", "transformer.h.3.attn.c_attn.bias"),
        ("gpt2", "transformer.h.0.attn.bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.biased_lora"),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq_scale"),
    ],
)
def test_weights_that_transformers_drops_by_name_are_not_taken_for_its_buffers(
    family: str, name: str, tmp_path: Path
) -> None:
    folder = write_tiny(family, tmp_path / "model")
    with_tensors(folder, **{name: torch.ones(3 * WIDTH)})
    with pytest.raises((DamagedError, ManifestError), match="1 tensors of the checkpoint") as caught:
        load(folder)
    assert name in str(caught.value)


MASK = torch.ones(1, 1, 64, 64, dtype=torch.bool)


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("llama", {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(N_LAYERS)}),
        ("gpt2", {"transformer.h.0.attn.bias": MASK, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}),
        ("gpt2", {"transformer.h.0.attn.bias": MASK.float()}),
        (
            "gpt_neox",
            {"gpt_neox.layers.0.attention.bias": MASK, "gpt_neox.layers.0.attention.masked_bias": torch.ones(1)},
        ),
    ],
)
def test_buffers_of_older_checkpoints_do_no_harm(family: str, extra: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = write_tiny(family, tmp_path / "model")
    plain = load(folder).model.state_dict()
    with_tensors(folder, **extra)
    again = load(folder).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in plain.items())


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_tied_embeddings_and_a_tied_model_without_a_head_are_whole(family: str, tmp_path: Path) -> None:
    folder = write_tiny(family, tmp_path / "model", tie_word_embeddings=True)
    plain = load(folder).model.state_dict()
    AutoModel.from_pretrained(folder).save_pretrained(folder)  # no head in it, and none needed
    again = load(folder).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in plain.items())


# What is hashed is what is loaded.


def opened_by_the_loader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """The weight files that transformers itself opens for a folder."""
    seen: set[Path] = set()
    real = loader.safe_open

    def spy(file: Any, *args: Any, **options: Any) -> Any:
        seen.add(Path(file))
        return real(file, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(loader, "safe_open", spy)
        AutoModelForCausalLM.from_pretrained(folder)
    return seen


@pytest.mark.parametrize("below", [None, "", "parts/"])
def test_the_files_that_are_hashed_are_those_that_the_loader_opens(
    below: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    whole = load(folder)
    if below is not None:
        split(folder, below=below)
        decoy = {name: torch.zeros_like(value) for name, value in load_file(folder / f"{below}two.safetensors").items()}
        if below:
            save(folder, decoy, "two.safetensors")  # of the same name, where the index does not point
    hashed: list[Path] = []
    real = identity.fingerprint
    monkeypatch.setattr(identity, "fingerprint", lambda files, *a, **k: hashed.extend(files) or real(files, *a, **k))
    again = load(folder)
    assert set(hashed) == opened_by_the_loader(folder, monkeypatch)
    assert again.spec.fingerprint == whole.spec.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


def both_forms(folder: Path) -> None:
    weights = weights_of(folder)
    split(folder)
    save(folder, weights)


def named_in_the_config(folder: Path) -> None:
    save(folder, weights_of(folder), "other.safetensors")
    edit_config(folder, transformers_weights="other.safetensors")


def distributed(folder: Path) -> None:
    save(folder, weights_of(folder), "shard-00000-model-00001-of-00001.safetensors")


@pytest.mark.parametrize("change", [both_forms, named_in_the_config, distributed])
def test_a_folder_with_several_sets_of_weights_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    change(folder)
    with pytest.raises(ManifestError, match=r"which weights are the model's|names other weights") as caught:
        load_bundle(manifest_of(folder), cache_dir=tmp_path / "cache")
    assert "save_pretrained" in str(caught.value.hint)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    split(folder)
    first = load_file(folder / "one.safetensors")
    save(
        folder,
        load_file(folder / "two.safetensors") | {next(iter(first)): next(iter(first.values()))},
        "two.safetensors",
    )
    with pytest.raises(DamagedError, match=r"is in one\.safetensors and in two\.safetensors"):
        load_bundle(manifest_of(folder), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "a/../../x.safetensors"])
def test_an_index_that_leads_outside_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    write_index(folder, {"a": name})
    with pytest.raises(DamagedError, match="outside its folder"):
        load_bundle(manifest_of(folder), cache_dir=tmp_path / "cache")


def test_a_folder_that_is_written_while_it_is_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    other = write_tiny("llama", tmp_path / "other", seed=1)
    real = identity.fingerprint

    def then_replaced(*args: Any, **options: Any) -> str:
        found = real(*args, **options)
        (other / "model.safetensors").replace(folder / "model.safetensors")
        return found

    monkeypatch.setattr(identity, "fingerprint", then_replaced)
    with pytest.raises(BusyError, match=r"model\.safetensors changed while the model was loaded"):
        load(folder)


# What the message says of packages and adapters.


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "hqq", "quanto", "torchao"])
def test_a_missing_quantiser_is_named_and_an_extra_of_ours_where_there_is_one(method: str, tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    edit_config(
        folder, quantization_config={"quant_method": method, "bits": 8, "load_in_8bit": method == "bitsandbytes"}
    )
    with pytest.raises(SteercacheError) as caught:
        load(folder)
    if isinstance(caught.value, MissingExtraError):
        extra = f"steercache[{EXTRAS[method]}]" if method in EXTRAS else "install the package that is named"
        assert extra in str(caught.value.hint)
    assert method in str(caught.value)
    assert caught.value.hint
    assert isinstance(caught.value, MissingExtraError | ManifestError)


def test_codes_of_a_quantisation_that_transformers_does_not_know_are_refused(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    edit_config(folder, quantization_config={"quant_method": "of_tomorrow"})
    with_tensors(folder, **{Q_PROJ: torch.ones(WIDTH, WIDTH, dtype=torch.int8)})
    with pytest.raises(ManifestError, match=r"stored as I8 and transformers does not know .*'of_tomorrow'"):
        load(folder)


def test_an_fp8_checkpoint_computes_on_its_scaled_weights(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model", tie_word_embeddings=False)
    weights = weights_of(folder)
    for name in [n for n in weights if n.endswith("_proj.weight")]:
        value = weights[name]
        codes = (value / 0.25).to(torch.float8_e4m3fn)
        rows, columns = (-(-n // 16) for n in value.shape)
        scales = {name: codes, f"{name}_scale_inv": torch.full((rows, columns), 0.25)}
        plain = codes.float() * 0.25
        weights |= scales | {f"expected.{name}": plain}
    expected = {name.removeprefix("expected."): weights.pop(name) for name in list(weights) if "expected" in name}
    save(folder, weights)
    how = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    edit_config(folder, quantization_config=how)
    loaded = load(folder).model.state_dict()  # on a CPU transformers unpacks the codes
    assert expected
    assert all(torch.allclose(loaded[name].float(), value) for name, value in expected.items())


def test_a_folder_that_is_only_an_adapter_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    save(
        folder,
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 2)},
        "adapter_model.safetensors",
    )
    with pytest.raises(ManifestError, match=r"only an adapter \(PEFT\) of owner/base, without the model") as caught:
        load(folder)
    assert "merge_and_unload" in str(caught.value.hint)


@pytest.mark.parametrize("family", MAKERS)
def test_every_multimodal_family_is_whole_as_transformers_saves_it(family: str, tmp_path: Path) -> None:
    folder = write_tiny_images(family, tmp_path / "model")
    assert load(folder).spec.modality == "image"
    with_tensors(folder, **{"model.vision_tower.extra.bias": torch.ones(3)})
    with pytest.raises(DamagedError, match=r"extra\.bias"):
        load(folder)


def test_a_head_that_predicts_tokens_ahead_may_be_left_out_and_nothing_else(tmp_path: Path) -> None:
    """Published Qwen3.5 has `mtp` tensors, DeepSeek-V3 and GLM-4.5 a block behind the last; no forward pass reads them."""
    folder = write_tiny_images("qwen3_5", tmp_path / "model")
    with_tensors(folder, **{"mtp.layers.0.self_attn.q_proj.weight": torch.ones(3), "mtp.fc.weight": torch.ones(3)})
    assert load(folder).spec.family == "qwen3_5"
    with_tensors(folder, **{"model.mtp_like.weight": torch.ones(3)})
    with pytest.raises(DamagedError, match=r"mtp_like\.weight"):
        load(folder)
    folder = write_tiny("llama", tmp_path / "other")
    with_tensors(folder, **{f"model.layers.{N_LAYERS}.eh_proj.weight": torch.ones(3)})
    with pytest.raises(DamagedError, match="eh_proj"):
        load(folder)
    edit_config(folder, num_nextn_predict_layers=1)
    assert load(folder).spec.n_layers == N_LAYERS
    with_tensors(folder, **{f"model.layers.{N_LAYERS + 1}.eh_proj.weight": torch.ones(3)})
    with pytest.raises(DamagedError, match=f"layers.{N_LAYERS + 1}.eh_proj"):
        load(folder)
