"""How a vector is meant to be used: what it may say, and that it travels with the vector without being part of its id."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from steercache.cache.handle import open_cache
from steercache.cache.vector_files import read_vector, write_vector
from steercache.cache.vectors import load_vector, save_vector
from steercache.core.errors import DamagedError
from steercache.core.ids import canonical_json
from steercache.core.vector_use import VectorUse
from steercache.core.vectors import SteeringVector

USE = VectorUse(
    operation="rotate",
    parameters={"angle": 0.5},
    layers=(4,),
    strength=2.0,
    strength_unit="resid_norm",
    strength_range=(0.5, 3),
    damage={"measure": "kl", "limit": 0.1},
    target="text",
    skip_first=True,
    phase="both",
    bos=False,
    chat="template",
    source={"sweep": "s"},
)


def vector(**changes: Any) -> SteeringVector:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    head = {"name": "v", "method": "mean_shift", "concept": "counting", "site": "resid_post", "layers": (1, 4)}
    return SteeringVector(**(head | {"values": values} | changes))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"operation": "subtract"}, "no operation named 'subtract'"),
        ({"place": "residual"}, "no place named 'residual'"),
        ({"target": "verbs"}, "no target named 'verbs'"),
        ({"phase": "prefill"}, "no phase named 'prefill'"),
        ({"strength_unit": "sigma"}, "no unit of strength named 'sigma'"),
        ({"strength": float("nan")}, "finite"),
        ({"strength": True}, "finite"),
        ({"parameters": {"angle": float("inf")}}, "finite"),
        ({"strength_range": (2.0, 1.0)}, "a range from 2.0 to 1.0"),
        ({"layers": (1, 1)}, "twice"),
        ({"layers": (-1,)}, "from 0"),
        ({"bos": "yes"}, "bos"),
    ],
)
def test_a_use_that_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VectorUse(**wrong)


def test_a_vector_cannot_be_meant_for_a_layer_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="layers"):
        vector(use=VectorUse(layers=(2,)))


def test_it_survives_the_file_and_leaves_the_id_alone(tmp_path: Path) -> None:
    plain, used = vector(), vector(use=USE)
    assert plain.vector_id == used.vector_id
    assert "rotate 2 resid_norm at resid_post of 4, text tokens but the first, both" in repr(used)
    write_vector(tmp_path / "v.safetensors", used)
    assert read_vector(tmp_path / "v.safetensors").vector.use == USE
    write_vector(tmp_path / "v.safetensors", plain)
    assert read_vector(tmp_path / "v.safetensors").vector.use is None


def test_a_vector_saved_again_keeps_its_use_and_a_new_one_takes_its_place(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "root", create=True)
    save_vector(cache, vector(use=USE))
    save_vector(cache, vector())
    assert load_vector(cache, "v").use == USE
    save_vector(cache, vector(use=replace(USE, strength=1.0)))
    found = load_vector(cache, "v").use
    assert found is not None
    assert found.strength == 1.0


def head_of(written: SteeringVector, **changes: Any) -> bytes:
    head = {
        "format": 1,
        "vector_id": written.vector_id,
        "name": written.name,
        "method": written.method,
        "concept": written.concept,
        "site": written.site,
        "layers": list(written.layers),
        "provenance": {},
        "diagnostics": [],
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return canonical_json(head | changes)


def test_a_file_of_format_1_is_read_and_one_of_a_later_format_refused(tmp_path: Path) -> None:
    path, written = tmp_path / "v.safetensors", vector()
    save_file({"values": written.values}, path, metadata={"steercache.vector": head_of(written).decode()})
    assert read_vector(path).vector == written
    later = head_of(written, format=99).decode()
    save_file({"values": written.values}, path, metadata={"steercache.vector": later})
    with pytest.raises(DamagedError, match="its format is 99, and this version reads 1 to 3"):
        read_vector(path)


@pytest.mark.parametrize("use", [{"operation": "sing"}, [], {"layers": 3}, {"damage": []}, {"parameters": {"a": "b"}}])
def test_a_header_with_a_use_of_another_shape_is_damage_not_a_crash(tmp_path: Path, use: Any) -> None:
    path, written = tmp_path / "v.safetensors", vector()
    save_file({"values": written.values}, path, metadata={"steercache.vector": head_of(written, use=use).decode()})
    with pytest.raises(DamagedError):
        read_vector(path)
