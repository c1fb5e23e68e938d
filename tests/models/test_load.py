"""Loading from a folder and from the hub's cache: right weights, or an error with a place and a way out."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from steercache.core.errors import (
    DamagedError,
    ManifestError,
    MissingExtraError,
    NotFoundError,
    SteercacheError,
    UsageError,
)
from steercache.core.examples import Example
from steercache.manifests.model import ModelManifest
from steercache.models.load import load_bundle, load_model
from steercache.models.spec import LoadedModel
from steercache.trace.encode import encode_example
from tests.models.tiny import N_LAYERS, TEXT_FAMILIES, WIDTH, manifest_of, write_tiny
from tests.models.tiny_images import MAKERS, picture, write_tiny_images


def load(folder: Path, **options: Any) -> LoadedModel:
    fields = options.pop("fields", {})
    return load_model(manifest_of(folder, **fields), cache_dir=folder.parent / "cache", device="cpu", **options)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_text_family_loads_as_transformers_loads_it(family: str, tmp_path: Path) -> None:
    folder = write_tiny(family, tmp_path / "model")
    loaded = load(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in loaded.model.state_dict().items())
    assert len(plain) == len(loaded.model.state_dict())
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.model.config._attn_implementation == loaded.spec.attention == "eager"
    spec = loaded.spec
    assert (spec.family, spec.n_layers, spec.hidden_size, spec.modality) == (family, N_LAYERS, WIDTH, "text")
    assert (spec.dtype, spec.model_id, spec.name) == ("float32", "model", "tiny")


def test_the_bundle_says_the_same_as_the_model_without_its_weights(tmp_path: Path) -> None:
    folder = write_tiny("qwen2", tmp_path / "model")
    bundle = load_bundle(manifest_of(folder), cache_dir=tmp_path / "cache")
    assert bundle.spec == load(folder).spec
    assert bundle.tokenizer("The cat")["input_ids"] == load(folder).tokenizer("The cat")["input_ids"]


@pytest.mark.parametrize(
    ("saved", "said", "asked", "computed"),
    [
        ("float32", "auto", "auto", "float32"),
        ("bfloat16", "auto", "auto", "bfloat16"),
        ("bfloat16", "float32", "auto", "float32"),
        ("float32", "bfloat16", "float16", "float16"),
        ("float16", "auto", "bfloat16", "bfloat16"),
    ],
)
def test_the_dtype_is_the_calls_then_the_manifests_then_the_checkpoints(
    saved: str, said: str, asked: str, computed: str, tmp_path: Path
) -> None:
    folder = write_tiny("llama", tmp_path / "model", dtype=saved)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, saved))
    model.save_pretrained(folder)
    loaded = load(folder, fields={"dtype": said}, dtype=asked)
    assert loaded.spec.dtype == computed
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, computed)}


def test_a_checkpoint_that_does_not_say_its_dtype_is_asked_for_its_tensors(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    edit_json(folder / "config.json", dtype=None)
    assert load(folder).spec.dtype == "bfloat16"


def test_dtype_attention_and_place_do_not_change_the_fingerprint_and_weights_do(tmp_path: Path) -> None:
    folder, other = write_tiny("llama", tmp_path / "a"), write_tiny("llama", tmp_path / "b", seed=1)
    prints = {
        load(folder).spec.fingerprint,
        load(folder, dtype="bfloat16").spec.fingerprint,
        load(folder, fields={"attention": "sdpa", "name": "other"}).spec.fingerprint,
        load(write_tiny("llama", tmp_path / "c")).spec.fingerprint,
    }
    assert len(prints) == 1
    assert load(other).spec.fingerprint not in prints


def test_the_tokenizers_digest_follows_what_it_does_and_not_where_it_lies(tmp_path: Path) -> None:
    folder, moved = write_tiny("llama", tmp_path / "a"), write_tiny("llama", tmp_path / "b")
    with_bos = write_tiny("llama", tmp_path / "c", bos=True)
    digest = load(folder).spec.tokenizer_digest
    assert load(moved).spec.tokenizer_digest == digest
    assert load(with_bos).spec.tokenizer_digest != digest
    (tmp_path / "plain.jinja").write_text("{{ messages[0]['content'] }}")
    manifest = manifest_of("a", chat_template="plain.jinja")
    bundle = load_bundle(manifest, cache_dir=tmp_path / "cache", base_dir=tmp_path)
    assert bundle.spec.tokenizer_digest != digest
    assert bundle.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_a_sharded_checkpoint_loads_and_has_the_whole_ones_fingerprint(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    whole = load(folder)
    sharded = write_tiny("llama", tmp_path / "shards")
    (sharded / "model.safetensors").unlink()
    whole.model.save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    again = load(sharded)
    assert again.spec.fingerprint == whole.spec.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))
    next(iter(sharded.glob("*00002*.safetensors"))).unlink()
    with pytest.raises(DamagedError, match="weights are missing: model-00002"):
        load(sharded)


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_one_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def reshape_one_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = torch.ones(3, 3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    drop_weights(folder)
    torch.save(weights, folder / "pytorch_model.bin")


def break_index(folder: Path) -> None:
    drop_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')


def add_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def drop_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def other_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="mamba")


def absurd_sizes(folder: Path) -> None:
    edit_json(folder / "config.json", num_attention_heads="four")


BROKEN: list[tuple[Callable[[Path], None], type[SteercacheError], str]] = [
    (drop_config, NotFoundError, "no config.json"),
    (break_config, DamagedError, "config.json: cannot be read"),
    (list_config, DamagedError, "not a JSON object"),
    (drop_weights, DamagedError, "no model.safetensors"),
    (cut_weights, DamagedError, "not a whole safetensors file"),
    (drop_one_weight, DamagedError, "1 weights are missing or of the wrong shape: model.layers.1.mlp.up_proj.weight"),
    (reshape_one_weight, DamagedError, "cannot load it|wrong shape"),
    (pickle_weights, ManifestError, "unpickling runs code"),
    (break_index, DamagedError, "no `weight_map`"),
    (add_adapter, ManifestError, "merge it first"),
    (drop_tokenizer, SteercacheError, "tokenizer"),
    (break_tokenizer, DamagedError, "cannot load it"),
    (other_architecture, NotFoundError, "'mamba' are not in the table of families, and cannot be derived"),
    (absurd_sizes, DamagedError, "cannot load it"),
]


@pytest.mark.parametrize(("breakage", "kind", "words"), BROKEN, ids=[b.__name__ for b, _, _ in BROKEN])
def test_a_broken_checkpoint_is_named_with_a_way_out(
    breakage: Callable[[Path], None], kind: type[SteercacheError], words: str, tmp_path: Path
) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    breakage(folder)
    with pytest.raises(kind, match=words) as caught:
        load(folder)
    assert caught.value.hint
    assert str(folder) in str(caught.value)


def test_a_folder_that_is_not_there_is_looked_for_beside_the_manifest(tmp_path: Path) -> None:
    write_tiny("llama", tmp_path / "model")
    assert load_bundle(manifest_of("model"), cache_dir=tmp_path / "cache", base_dir=tmp_path).spec.model_id == "model"
    with pytest.raises(NotFoundError, match="no folder 'modle'"):
        load_bundle(manifest_of("modle"), cache_dir=tmp_path / "cache", base_dir=tmp_path)
    with pytest.raises(NotFoundError, match="chat template"):
        load_bundle(manifest_of("model", chat_template="x"), cache_dir=tmp_path / "cache", base_dir=tmp_path)


def test_code_inside_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    trap = tmp_path / "sprung"
    code = f"open({str(trap)!r}, 'w').close()\nclass X: pass\n"
    for name in ("modeling_x", "configuration_x", "tokenization_x"):
        (folder / f"{name}.py").write_text(code)
    remote = {"AutoModelForCausalLM": "modeling_x.X", "AutoConfig": "configuration_x.X"}
    edit_json(folder / "config.json", auto_map=remote)
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
    assert load(folder).spec.family == "llama"  # a type that transformers knows itself
    edit_json(folder / "config.json", model_type="xllama")
    with pytest.raises(NotFoundError, match="code of its own, which is never run"):
        load(folder)
    assert not trap.exists()


def test_molmo2_as_its_authors_publish_it_runs_no_code_and_names_the_package_that_is_missing(tmp_path: Path) -> None:
    """Its folder asks for code of its own; transformers has the class, whose image processor needs torchvision."""
    folder, trap = write_tiny("llama", tmp_path / "model"), tmp_path / "sprung"
    for name in ("modeling_molmo2", "configuration_molmo2", "processing_molmo2", "image_processing_molmo2"):
        (folder / f"{name}.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
    published = {
        "architectures": ["Molmo2ForConditionalGeneration"],
        "auto_map": {
            "AutoConfig": "configuration_molmo2.Molmo2Config",
            "AutoModelForImageTextToText": "modeling_molmo2.Molmo2ForConditionalGeneration",
        },
        "model_type": "molmo2",
        "adapter_config": {"model_type": "molmo2", "vit_layers": [-3, -9]},
        "text_config": {"model_type": "molmo2_text", "hidden_size": WIDTH, "num_hidden_layers": N_LAYERS},
        "vit_config": {"model_type": "molmo2", "num_hidden_layers": 27},
    }
    (folder / "config.json").write_text(json.dumps(published))
    processors = {"AutoProcessor": "processing_molmo2.Molmo2Processor"}
    of_pictures = {"image_processor_type": "Molmo2ImageProcessor", "processor_class": "Molmo2Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(of_pictures | {"auto_map": processors}))
    for read in (load, lambda one: load_bundle(manifest_of(one), cache_dir=tmp_path / "cache")):
        with pytest.raises(MissingExtraError, match="torchvision") as caught:
            read(folder)
        assert caught.value.place == str(folder)
    assert not trap.exists()


@pytest.mark.parametrize("family", MAKERS)
def test_a_multimodal_bundle_travels_to_a_worker_process(family: str, tmp_path: Path) -> None:
    folder = write_tiny_images(family, tmp_path / "model")
    bundle = load_bundle(manifest_of(folder), cache_dir=tmp_path / "cache")
    again = pickle.loads(pickle.dumps(bundle))
    asked = Example(dataset="d", place="d:1", text="The cat", images=(picture(50, 80),))
    here, there = encode_example(asked, bundle), encode_example(asked, again)
    assert (here.sample_id, again.spec) == (there.sample_id, bundle.spec)
    assert here.tile.tolist() == there.tile.tolist()


def test_gemma_2_runs_in_eager_attention_unless_told_otherwise_and_refuses_sdpa(tmp_path: Path) -> None:
    folder = write_tiny("gemma2", tmp_path / "model")
    silent = {"kind": "model", "version": 1, "name": "x", "source": {"type": "path", "folder": str(folder)}}
    manifest = ModelManifest.model_validate_json(json.dumps(silent))
    loaded = load_model(manifest, cache_dir=tmp_path / "cache", device="cpu")
    assert loaded.spec.attention == loaded.model.config._attn_implementation == "eager"
    with pytest.raises(UsageError, match="`attention: eager`"):
        load(folder, fields={"attention": "sdpa"})


def test_a_family_that_the_checkpoint_is_not_of_is_refused(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    assert load(folder, fields={"family": "llama"}).spec.family == "llama"
    with pytest.raises(ManifestError, match="says family 'qwen2', the checkpoint is 'llama'"):
        load(folder, fields={"family": "qwen2"})


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "cpu:x", ""])
def test_a_device_that_is_not_there_is_a_usage_error(device: str, tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    with pytest.raises(UsageError, match="choose auto or cpu"):
        load_model(manifest_of(folder), cache_dir=tmp_path / "cache", device=device)


def test_a_device_map_spreads_the_same_weights(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    spread = load(folder, device_map={"": "cpu"})
    assert all(
        torch.equal(a, b) for a, b in zip(spread.model.parameters(), load(folder).model.parameters(), strict=True)
    )


def test_loading_says_nothing_and_leaves_transformers_as_talkative_as_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    folder = write_tiny("llama", tmp_path / "model")
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    capfd.readouterr()
    load(folder)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


HUB = """
import json, sys
from pathlib import Path
from steercache.core.errors import SteercacheError
from steercache.manifests.model import ModelManifest
from steercache.models.load import load_bundle
found = {}
for hub_id in sys.argv[2:]:
    source = {"type": "hub", "id": hub_id}
    document = json.dumps({"kind": "model", "version": 1, "name": "x", "source": source, "attention": "eager"})
    try:
        found[hub_id] = load_bundle(ModelManifest.model_validate_json(document), cache_dir=Path(sys.argv[1])).spec.model_id
    except SteercacheError as error:
        found[hub_id] = f"{type(error).__name__} {error}"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def from_hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process says that loads models by their ids: libraries of the hub read their environment when they start."""
    folder, commit = tmp_path_factory.mktemp("hub"), "0" * 40
    repository = folder / "hf" / "hub" / "models--owner--tiny"
    write_tiny("llama", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    done = subprocess.run(
        [sys.executable, "-c", HUB, str(folder / "cache"), "google/gemma-2-2b", "owner/tiny"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_hub_model_that_is_not_here_says_how_to_bring_it(from_hub: dict[str, str]) -> None:
    said = from_hub["google/gemma-2-2b"]
    assert "NotFoundError" in said
    assert "google/gemma-2-2b (revision main) is not on this machine and the hub cannot be reached" in said
    assert "hf download google/gemma-2-2b" in said


def test_a_hub_model_in_the_local_hub_cache_loads_offline(from_hub: dict[str, str]) -> None:
    assert from_hub["owner/tiny"] == "owner/tiny"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": "wide"}, "expected int, got str"),
        ({"num_attention_heads": 3}, "not a multiple of the number of attention heads"),
        ({"hidden_act": "none-such"}, "KeyError: 'none-such'"),
    ],
)
def test_a_configuration_that_transformers_refuses_is_shown_with_the_reason(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    edit_json(folder / "config.json", **change)
    with pytest.raises(SteercacheError, match=reason):
        load(folder)


def test_a_long_value_of_a_configuration_is_shown_in_short(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model")
    edit_json(folder / "config.json", hidden_size="wide " * 40_000)
    with pytest.raises(SteercacheError) as caught:
        load(folder)
    assert len(str(caught.value)) < 5000
