"""Exported and imported again: the same id, or what was lost; and the layouts, read by other readers than ours."""

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from steercache.core.errors import UsageError
from steercache.core.vector_use import VectorUse
from steercache.exchange.vectors.exporting import export_vector
from steercache.exchange.vectors.importing import ImportTerms, import_vector
from tests.exchange.vector_cases import some_vector

ALL = {
    "gguf": "v.gguf",
    "steering-vectors": "v.pt",
    "lm-eval": "v.pt",
    "easysteer": "v.gguf",
    "vllm-lens": "v.json",
    "npz": "v.npz",
    "safetensors": "v.safetensors",
}


@pytest.mark.parametrize(("to", "name"), ALL.items(), ids=ALL)
def test_a_whole_vector_comes_back_with_its_id_its_use_and_its_diagnostics(tmp_path: Path, to: str, name: str) -> None:
    vector = some_vector()
    export_vector(vector, tmp_path / name, to=to)
    back = import_vector(tmp_path / name, source=to)
    assert (back.same_id, back.lost) == (True, ())
    assert back.vector.vector_id == vector.vector_id
    assert back.vector.values.tobytes() == vector.values.tobytes()
    for said in ("name", "use", "diagnostics", "fitted_on", "provenance"):
        assert getattr(back.vector, said) == getattr(vector, said), said


def test_a_profile_of_saklas_comes_back_with_its_id(tmp_path: Path) -> None:
    vector = some_vector(use=None)
    export_vector(vector, tmp_path / "v.safetensors", to="saklas", layers="all")
    assert import_vector(tmp_path / "v.safetensors", source="saklas").vector.vector_id == vector.vector_id


@pytest.mark.parametrize("to", [to for to in ALL if to != "safetensors"])
def test_a_part_of_a_vector_says_what_it_lacks(tmp_path: Path, to: str) -> None:
    vector = some_vector()
    export_vector(vector, tmp_path / ALL[to], to=to, layers=[2])
    back = import_vector(tmp_path / ALL[to], source=to)
    assert (back.same_id, back.lost) == (False, ("layers 1, 4",))
    assert back.vector.layers == (2,)
    assert back.vector.at(2).tobytes() == vector.at(2).tobytes()
    assert back.vector.provenance["exported_from"] == vector.vector_id


def test_scaled_values_are_multiplied_once_and_say_so(tmp_path: Path) -> None:
    vector = some_vector(use=VectorUse(phase="both", strength=0.5, strength_unit="resid_norm"))
    with pytest.raises(UsageError, match="another strength at every layer"):
        export_vector(vector, tmp_path / "v.gguf", layers="all")
    export_vector(vector, tmp_path / "v.gguf", layers="all", scaled=True)
    back = import_vector(tmp_path / "v.gguf")
    assert not back.same_id
    assert "multiplied" in back.lost[0]
    for layer in vector.layers:
        np.testing.assert_allclose(np.linalg.norm(back.vector.at(layer)), 0.5 * (10 + layer), rtol=1e-5)


def test_the_gguf_file_is_read_by_the_gguf_package(tmp_path: Path) -> None:
    vector = some_vector()
    export_vector(vector, tmp_path / "v.gguf")
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.layer_count").contents() == 3
    assert reader.get_field("controlvector.model_hint").contents() == "tiny"
    assert json.loads(reader.get_field("steercache.vector").contents())["name"] == "counting"
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2", "direction.4"]
    for tensor, row in zip(reader.tensors, vector.values, strict=True):
        assert tensor.data.tobytes() == row.tobytes()


def test_what_the_gguf_package_writes_is_read(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.float32)
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 2)
    writer.add_array("controlvector.numbers", [1, 2, 3])
    writer.add_tensor("direction.3", values)
    writer.add_tensor("direction.5", (2 * values).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    vector = import_vector(tmp_path / "w.gguf").vector
    assert (vector.site, vector.layers, vector.method) == ("resid_post", (3, 5), "imported")
    assert vector.values.tolist() == [values.tolist(), (2 * values).tolist()]
    assert vector.use == VectorUse(phase="both")
    assert vector.provenance["imported"]["about"] == {"controlvector.model_hint": "llama"}


def test_pt_files_hold_what_their_readers_take_and_no_code(tmp_path: Path) -> None:
    vector = some_vector()
    export_vector(vector, tmp_path / "s.pt", to="steering-vectors")
    said = torch.load(tmp_path / "s.pt", weights_only=True)
    assert set(said) == {"layer_activations", "layer_type"}
    assert list(said["layer_activations"]) == [1, 2, 4]
    export_vector(vector, tmp_path / "l.pt", to="lm-eval")
    said = torch.load(tmp_path / "l.pt", weights_only=True)
    assert list(said) == ["layers.1", "layers.2", "layers.4"]
    assert {(one["action"], one["steering_coefficient"]) for one in said.values()} == {("add", 2.0)}
    assert said["layers.4"]["steering_vector"].numpy().tobytes() == vector.at(4).tobytes()


def test_the_layouts_of_easysteer_vllm_lens_and_saklas_are_the_documented_ones(tmp_path: Path) -> None:
    vector = some_vector(layers=(0, 3), use=VectorUse(phase="generated", layers=(0, 3), strength=-1.5))
    export_vector(vector, tmp_path / "e.gguf", to="easysteer")
    (said,) = json.loads((tmp_path / "e.json").read_text())["vectors"]
    assert said == {
        "source": "e.gguf",
        "algorithm": "direct",
        "scale": -1.5,
        "layers": [0, 3],
        "normalize": False,
        "apply": {"generation": "all"},
    }
    both = replace(vector, use=VectorUse(phase="both", layers=(0, 3), strength=-1.5))
    export_vector(both, tmp_path / "l.json")
    (said,) = json.loads((tmp_path / "l.json").read_text())
    assert (said["layer_indices"], said["scale"], said["norm_match"]) == ([0, 3], -1.5, False)
    assert said["activations"]["shape"] == [2, 16]
    bare = replace(vector, use=None)
    export_vector(bare, tmp_path / "s.safetensors", to="saklas", layers="all")
    assert list(load_file(tmp_path / "s.safetensors")) == ["layer_0", "layer_3"]
    assert set(json.loads((tmp_path / "s.json").read_text())) == {
        *("format_version", "saklas_version", "method", "tensor_sha256", "provenance")
    }


REFUSED = [
    ({"use": VectorUse(phase="both", operation="rotate")}, "gguf", "its operation is rotate"),
    ({"use": VectorUse(phase="both", operation="project_out")}, "vllm-lens", "its operation is project_out"),
    ({"use": VectorUse(phase="both", operation="project_out", strength=0.5)}, "lm-eval", "removes the whole component"),
    (
        {"use": VectorUse(phase="prompt")},
        "steering-vectors",
        "the prompt only, and the format steers prompt and generated",
    ),
    ({"use": VectorUse(phase="both", target="image")}, "easysteer", "image tokens, and the format steers every token"),
    ({"use": VectorUse(phase="both", skip_first=True)}, "pytorch", "all tokens but the first"),
    (
        {"use": VectorUse(phase="both", target="sql: kind = 'image'")},
        "gguf",
        "tokens where sql: kind = 'image', and the format steers every token",
    ),
    (
        {"use": VectorUse(phase="both", n_generated=3)},
        "steering-vectors",
        "the first 3 generated tokens, and the format",
    ),
    ({"site": "mlp_out", "use": VectorUse(phase="both", place="mlp_out")}, "gguf", "belongs at mlp_out"),
    ({"site": "resid_pre", "use": None}, "lm-eval", "belongs at resid_pre"),
    ({"layers": (0, 1, 2), "use": None}, "gguf", "layer 0: llama.cpp has no control vector for block 0"),
    ({"use": VectorUse(phase="both", strength=1.0)}, "saklas", "cannot express the strength"),
    (
        {"use": VectorUse(phase="both", strength=1.0, strength_unit="target_norm")},
        "gguf",
        "norms of the rows that are steered",
    ),
]
NAMES = {"gguf": "v.gguf", "easysteer": "v.gguf", "vllm-lens": "v.json", "saklas": "v.safetensors", "pytorch": "v.py"}


@pytest.mark.parametrize(("changes", "to", "why"), REFUSED, ids=[f"{to}: {why[:40]}" for _, to, why in REFUSED])
def test_what_a_format_cannot_express_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, object], to: str, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        export_vector(some_vector(**changes), tmp_path / NAMES.get(to, "v.pt"), to=to, layers="all")
    assert not list(tmp_path.iterdir())


def test_a_vector_of_several_layers_is_not_exported_to_all_of_them_by_accident(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say which are steered"):
        export_vector(some_vector(use=None), tmp_path / "v.gguf")
    done = export_vector(some_vector(use=None), tmp_path / "v.gguf", layers=[4])
    assert done.layers == (4,)
    assert "does not say how it is meant to be used" in done.notes[0]


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "v.gguf").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already"):
        export_vector(some_vector(), tmp_path / "v.gguf")
    assert (tmp_path / "v.gguf").read_bytes() == b"mine"
    export_vector(some_vector(), tmp_path / "v.gguf", overwrite=True)
    assert import_vector(tmp_path / "v.gguf").same_id


def test_values_that_were_changed_after_the_export_are_not_taken_for_the_vector(tmp_path: Path) -> None:
    export_vector(some_vector(), tmp_path / "v.gguf")
    data = bytearray((tmp_path / "v.gguf").read_bytes())
    data[-4:] = np.float32(7).tobytes()
    (tmp_path / "v.gguf").write_bytes(data)
    with pytest.raises(UsageError, match="changed after it was written"):
        import_vector(tmp_path / "v.gguf")
    foreign = import_vector(tmp_path / "v.gguf", terms=ImportTerms(ignore_header=True)).vector
    assert foreign.values[-1, -1] == 7
