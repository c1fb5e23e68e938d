"""Files of other tools: what they do not say must be given; what is hostile or broken is refused, and no code runs."""

import base64
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from steercache.core.errors import UsageError
from steercache.core.vectors import SteeringVector
from steercache.exchange.vectors import arrays, torch_files
from steercache.exchange.vectors.exporting import export_vector
from steercache.exchange.vectors.formats import FORMATS
from steercache.exchange.vectors.importing import ImportTerms, import_vector
from steercache.exchange.vectors.offset import find_offset
from tests.exchange.vector_cases import some_vector

GIVEN = ImportTerms(site="resid_post", layer_offset=0, norm="keep")
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_everything_that_a_file_does_not_say_is_named_at_once(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ROWS)
    with pytest.raises(UsageError) as refused:
        import_vector(tmp_path / "v.npy")
    for words in ("the layers of its rows", "the site", "the layer offset", "the norm"):
        assert words in str(refused.value)
    terms = ImportTerms(site="resid_post", layer_offset=1, norm="unit", layers=(7, 9), name="n", concept="c")
    vector = import_vector(tmp_path / "v.npy", terms=terms).vector
    assert (vector.layers, vector.site, vector.name, vector.concept) == ((8, 10), "resid_post", "n", "c")
    np.testing.assert_allclose(vector.norms, 1, rtol=1e-6)
    assert vector.provenance["imported"]["layer_offset"] == 1


def test_the_same_file_and_terms_give_the_same_id_and_other_terms_another(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", layer_3=ROWS[0] + 1, layer_5=ROWS[1])
    first, again = (import_vector(tmp_path / "v.npz", terms=GIVEN).vector for _ in range(2))
    other = import_vector(tmp_path / "v.npz", terms=ImportTerms(site="resid_pre", layer_offset=0, norm="keep")).vector
    assert first.vector_id == again.vector_id != other.vector_id
    assert first.layers == (3, 5)


@pytest.mark.parametrize(
    ("value", "layers"),
    [
        ({"0": torch.ones(4), "7": torch.zeros(4) + 2}, (0, 7)),
        ({"0": {"weights": torch.ones(4), "bias": torch.tensor(0.0)}}, (0,)),
        ({"0": torch.ones(4), "1": None}, (0,)),
    ],
)
def test_the_papers_files_of_mean_shifts_and_of_probes_are_read(
    tmp_path: Path, value: Any, layers: tuple[int, ...]
) -> None:
    torch.save(value, tmp_path / "features.pt")
    with pytest.raises(UsageError, match="does not say the norm"):
        import_vector(tmp_path / "features.pt", source="textsteersvision")
    taken = import_vector(tmp_path / "features.pt", source="textsteersvision", terms=ImportTerms(norm="keep"))
    assert taken.vector.layers == layers
    assert "behind the final norm" in taken.notes[0]


def test_bfloat16_half_and_double_precision_become_float32(tmp_path: Path) -> None:
    one = torch.tensor([1.0, 0.1, -3.5])
    save_file(
        {"layers.2": one.bfloat16(), "layers.3": one.half(), "layers.4": one.double()}, tmp_path / "v.safetensors"
    )
    vector = import_vector(tmp_path / "v.safetensors", terms=GIVEN).vector
    assert vector.at(2).tolist() == one.bfloat16().float().tolist()
    assert vector.at(3).tolist() == one.half().float().tolist()
    assert vector.at(4).tolist() == one.tolist()
    torch.save({"layers.2": one.bfloat16(), "layers.3": one.half(), "layers.4": one.double()}, tmp_path / "v.pt")
    assert (
        import_vector(tmp_path / "v.pt", source="pytorch", terms=GIVEN).vector.values.tolist() == vector.values.tolist()
    )


def test_compressed_activations_of_vllm_lens_are_read_up_to_their_shape_and_no_further(tmp_path: Path) -> None:
    def write(raw: bytes, shape: list[int], **changes: Any) -> None:
        data = base64.b64encode(pa.Codec("zstd").compress(raw, asbytes=True)).decode()
        tensor = {"data": data, "dtype": "float32", "original_dtype": "torch.float32", "shape": shape}
        said = {"activations": tensor | {"compression": "zstd"}, "layer_indices": [4, 6], "scale": 2.5} | changes
        (tmp_path / "v.json").write_text(json.dumps(said))

    write(ROWS.tobytes(), [2, 4])
    vector = import_vector(tmp_path / "v.json").vector
    assert vector.values.tolist() == ROWS.tolist()
    assert vector.layers == (4, 6)
    assert vector.use is not None
    assert vector.use.strength == 2.5
    write(b"\0" * (200 << 20), [2, 4])  # some kilobytes that unpack to 200 MB
    with pytest.raises(UsageError, match="cannot be read"):
        import_vector(tmp_path / "v.json")
    for changes, why in (
        ({"norm_match": True}, "norm of every row"),
        ({"layer_indices": [4]}, "name no layer for each"),
        ({"layer_indices": [4, 4]}, "twice"),
        ({"scale": float("nan")}, "no finite number"),
    ):
        write(ROWS.tobytes(), [2, 4], **changes)
        with pytest.raises(UsageError, match=why):
            import_vector(tmp_path / "v.json")


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("source", [name for name, row in FORMATS.items() if ".pt" in row.suffixes])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, source: str) -> None:
    ran = tmp_path / "ran"
    torch.save({"layer_activations": {3: torch.ones(4)}, "x": Attack(ran)}, tmp_path / "v.pt")
    with pytest.raises(UsageError, match="could run code"):
        import_vector(tmp_path / "v.pt", source=source)
    (tmp_path / "v.pt").write_bytes(pickle.dumps(Attack(ran)))
    with pytest.raises(UsageError, match="no archive of torch"):
        import_vector(tmp_path / "v.pt", source=source)
    assert not ran.exists()


def test_python_objects_of_numpy_are_not_loaded(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    np.save(tmp_path / "v.npy", np.array([Attack(ran)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "v.npz", layer_1=np.array([Attack(ran)], dtype=object))
    for name in ("v.npy", "v.npz"):
        with pytest.raises(UsageError, match="could run code"):
            import_vector(tmp_path / name, terms=GIVEN)
    assert not ran.exists()


def test_zip_bombs_and_swollen_shapes_are_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("layer_1.npy", b"\0" * (4 << 20))
    shutil.copy(tmp_path / "bomb.npz", tmp_path / "bomb.pt")
    with pytest.raises(UsageError, match="is compressed, which torch never does"):
        import_vector(tmp_path / "bomb.pt", source="pytorch", terms=GIVEN)
    monkeypatch.setattr(arrays, "MAX_FILE_BYTES", 1 << 20)
    monkeypatch.setattr(torch_files, "MAX_FILE_BYTES", 1 << 20)
    for name, source in (("bomb.npz", "npz"), ("bomb.pt", "pytorch")):
        with pytest.raises(UsageError, match="unpacks to 4,194,304 bytes"):
            import_vector(tmp_path / name, source=source, terms=GIVEN)
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4), }".ljust(117) + "\n"
    (tmp_path / "v.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + b"\0" * 64)
    with pytest.raises(UsageError, match="needs 16,000,000,000,000 bytes"):
        import_vector(tmp_path / "v.npy", terms=GIVEN)
    torch.save({"3": torch.ones(1).expand(1 << 40)}, tmp_path / "wide.pt")
    with pytest.raises(UsageError, match="not dense and whole"):
        import_vector(tmp_path / "wide.pt", source="pytorch", terms=GIVEN)


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ({"layer_1": np.array([1, np.nan], np.float32)}, "not finite"),
        ({"layer_1": np.array([1, 1e300])}, "not finite in float32"),
        ({"layer_1": np.ones(3, np.float32), "layer_2": np.ones(4, np.float32)}, "widths differ: 3, 4"),
        ({"layer_1": np.ones((2, 3), np.float32)}, r"shape \(2, 3\)"),
        ({"layer_1": np.ones(3, np.int64)}, "not floating-point"),
        ({"layer_1": np.ones(0, np.float32)}, r"shape \(0,\)"),
        ({"weights": np.ones(3, np.float32)}, "says no layer"),
        ({"a.1": np.ones(3, np.float32), "b.1": np.ones(3, np.float32)}, "twice"),
        ({}, "holds no direction"),
    ],
)
def test_arrays_that_are_no_directions_are_refused(tmp_path: Path, named: dict[str, Any], why: str) -> None:
    np.savez(tmp_path / "v.npz", **named)
    with pytest.raises(UsageError, match=why):
        import_vector(tmp_path / "v.npz", terms=GIVEN)


@pytest.mark.parametrize(
    ("to", "name"), [("gguf", "v.gguf"), ("npz", "v.npz"), ("lm-eval", "v.pt"), ("vllm-lens", "v.json")]
)
def test_a_file_that_is_cut_or_changed_anywhere_is_refused_or_read_never_a_crash(
    tmp_path: Path, to: str, name: str
) -> None:
    path = tmp_path / name
    export_vector(some_vector(), path, to=to)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for end in generator.integers(0, len(whole), 20):
        path.write_bytes(whole[:end])
        with pytest.raises(UsageError):
            import_vector(path, source=to, terms=GIVEN)
    for _ in range(60):
        changed = bytearray(whole)
        for at in generator.integers(0, len(whole) if to != "gguf" else 200, 3):
            changed[at] = generator.integers(0, 256)
        path.write_bytes(changed)
        try:
            import_vector(path, source=to, terms=GIVEN)
        except UsageError:
            continue


def test_headers_that_lie_about_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    for n_tensors, n_keys in ((1 << 60, 0), (0, 1 << 60), (1, 1)):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + struct.pack("<Q", 1 << 62))
        with pytest.raises(UsageError, match="no whole GGUF file"):
            import_vector(path)
    (tmp_path / "v.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(UsageError, match="no whole safetensors file"):
        import_vector(tmp_path / "v.safetensors", terms=GIVEN)
    (tmp_path / "v.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="no JSON"):
        import_vector(tmp_path / "v.json")


def test_an_unclear_name_or_an_unknown_format_is_refused(tmp_path: Path) -> None:
    for name, why in (("v.pt", "several formats"), ("v.exe", "no format has files")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(UsageError, match=why):
            import_vector(tmp_path / name)
    with pytest.raises(UsageError, match="no format named 'onnx'"):
        import_vector(tmp_path / "v.pt", source="onnx")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        import_vector(tmp_path / "none.gguf")
    np.savez(tmp_path / "v.npz", layer_0=ROWS[1])
    with pytest.raises(UsageError, match="would be block -1"):
        import_vector(tmp_path / "v.npz", terms=ImportTerms(site="resid_post", layer_offset=-1, norm="keep"))


def walk(*, n_layers: int, step: float, width: int = 64, seed: int = 1) -> SteeringVector:
    """Directions that turn from block to block, as those of a residual stream do."""
    generator = np.random.default_rng(seed)
    steps = generator.standard_normal((n_layers, width)) * np.where(np.arange(n_layers)[:, None] == 0, 1, step)
    values = np.cumsum(steps, axis=0).astype(np.float32)
    return some_vector(layers=tuple(range(n_layers)), width=width, values=values, use=None)


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 2])
def test_a_planted_layer_offset_is_found(offset: int) -> None:
    reference = walk(n_layers=12, step=0.4)
    noise = np.random.default_rng(3).standard_normal((12, 64)).astype(np.float32)
    held = {block - offset: 3 * reference.at(block) + 0.3 * noise[block] for block in range(12) if block - offset >= 0}
    check = find_offset(held, reference)
    assert check.offset == offset, check
    assert check.cosines[offset] == max(check.cosines.values())


def test_an_offset_that_cannot_be_told_is_not_guessed() -> None:
    reference = walk(n_layers=12, step=0.4)
    other = walk(n_layers=12, step=0.4, seed=9)
    assert find_offset({layer: other.at(layer) for layer in other.layers}, reference).offset is None
    still = walk(n_layers=12, step=0.0)
    check = find_offset({layer: still.at(layer) for layer in still.layers}, still)
    assert check.offset is None
    assert "as much like one block's as like the next one's" in check.why
