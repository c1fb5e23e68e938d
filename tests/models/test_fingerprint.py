"""A fingerprint is the tensors and the configuration, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from steercache.core.errors import DamagedError
from steercache.models.fingerprint import fingerprint, tensor_index

CONFIG = {"model_type": "llama", "hidden_size": 4}


def tensors(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "b.weight": rng.normal(size=(5,)).astype(ml_dtypes.bfloat16),
        "c.weight": rng.integers(0, 9, size=(2, 2)).astype(np.int64),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }


def write(path: Path, values: dict[str, Any], **metadata: str) -> Path:
    save_file(values, path, metadata=metadata or None)
    return path


def test_files_their_names_their_number_and_their_metadata_do_not_count(tmp_path: Path) -> None:
    values = tensors()
    whole = fingerprint([write(tmp_path / "model.safetensors", values)], CONFIG)
    parts = [
        write(tmp_path / "x.safetensors", {k: values[k] for k in ("c.weight", "a.weight")}, format="pt"),
        write(tmp_path / "y.safetensors", {k: values[k] for k in ("empty", "b.weight")}),
    ]
    assert fingerprint(parts, CONFIG) == whole
    assert fingerprint(parts[::-1], CONFIG) == whole


def changed_bit(values: dict[str, Any]) -> None:
    values["b.weight"].view(np.uint16)[4] ^= 1


def changed_name(values: dict[str, Any]) -> None:
    values["z.weight"] = values.pop("a.weight")


def changed_shape(values: dict[str, Any]) -> None:
    values["a.weight"] = values["a.weight"].reshape(4, 3)


def changed_dtype(values: dict[str, Any]) -> None:
    values["c.weight"] = values["c.weight"].view(np.uint64)


def changed_owner(values: dict[str, Any]) -> None:
    values["a.weight"], values["d"] = values["a.weight"][:2].copy(), values["a.weight"][2:].copy()


@pytest.mark.parametrize("change", [changed_bit, changed_name, changed_shape, changed_dtype, changed_owner])
def test_any_change_to_a_tensor_counts(change: Any, tmp_path: Path) -> None:
    before = fingerprint([write(tmp_path / "a.safetensors", tensors())], CONFIG)
    values = tensors()
    change(values)
    assert fingerprint([write(tmp_path / "b.safetensors", values)], CONFIG) != before


def test_of_the_configuration_only_its_meaning_counts(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.safetensors", tensors())]
    plain = fingerprint(files, CONFIG)
    resaved = {"hidden_size": 4, "transformers_version": "9", "torch_dtype": "float16", "_name_or_path": "/x"}
    assert fingerprint(files, {**resaved, "model_type": "llama"}) == plain
    assert fingerprint(files, {**CONFIG, "rope_theta": 1e4}) != plain
    assert fingerprint(files, {**CONFIG, "text_config": {"dtype": "x"}}) == fingerprint(
        files, {**CONFIG, "text_config": {}}
    )


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_header_is_read_as_the_safetensors_library_reads_it(data: Any, tmp_path_factory: Any) -> None:
    shapes = data.draw(
        st.dictionaries(st.text("abc.", min_size=1), st.lists(st.integers(0, 3), max_size=3), min_size=1)
    )
    path = write(tmp_path_factory.mktemp("s") / "m.safetensors", {k: np.ones(s, np.float16) for k, s in shapes.items()})
    index = tensor_index(path)
    with safe_open(path, "np") as peer:
        assert sorted(index) == sorted(peer.keys())
        for name in peer.keys():  # noqa: SIM118  not a dict
            assert index[name]["shape"] == peer.get_slice(name).get_shape()


def test_a_memo_saves_reading_and_a_changed_file_is_read_again_whatever_its_time_says(tmp_path: Path) -> None:
    memo = tmp_path / "memo"
    path = write(tmp_path / "m.safetensors", tensors(0))
    first = fingerprint([path], CONFIG, memo_dir=memo)
    (kept,) = memo.iterdir()
    known = json.loads(kept.read_bytes())
    kept.write_text(json.dumps(known | {"value": []}))
    assert fingerprint([path], CONFIG, memo_dir=memo) != first  # nothing was read but the memo
    kept.write_text(json.dumps(known))
    stat = path.stat()
    write(path, tensors(1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as archives and images do, which give all files one time
    assert path.stat().st_size == stat.st_size
    assert fingerprint([path], CONFIG, memo_dir=memo) == fingerprint([path], CONFIG) != first


def test_a_damaged_memo_is_written_anew_and_an_unwritable_one_does_no_harm(tmp_path: Path) -> None:
    memo = tmp_path / "memo"
    path = write(tmp_path / "m.safetensors", tensors())
    plain = fingerprint([path], CONFIG)
    assert fingerprint([path], CONFIG, memo_dir=memo) == plain
    (file,) = memo.iterdir()
    for garbage in (b"", b"{", b"[]", b'{"stamp": 1, "value": 2}', b"\xff"):
        file.write_bytes(garbage)
        assert fingerprint([path], CONFIG, memo_dir=memo) == plain
    assert json.loads(file.read_bytes())["stamp"][0] == "tensors"
    assert fingerprint([path], CONFIG, memo_dir=path / "not-a-folder") == plain


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1])
def test_a_cut_file_is_named(keep: int, tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", tensors())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedError, match=r"m\.safetensors: not a whole safetensors file"):
        fingerprint([path], CONFIG)


@settings(max_examples=60, deadline=None)
@given(
    header=st.one_of(st.binary(max_size=40), st.sampled_from([b"[]", b"{}", b'{"a":1}', b'{"a":{"data_offsets":[0]}}']))
)
def test_no_header_gives_anything_but_damage_or_an_answer(header: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("h") / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    if header == b"{}":
        assert fingerprint([path], CONFIG)
    else:
        with pytest.raises(DamagedError):
            fingerprint([path], CONFIG)


def test_fingerprints_need_no_torch() -> None:
    code = "import sys, steercache.models.fingerprint, steercache.models.families; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
