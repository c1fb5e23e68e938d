"""How the texts of a run begin is part of what a vector says, and of its uses; a vector writes itself for other tools."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

import steercache
from steercache.cache.conventions import N_TOKENS, conventions_in
from steercache.core.vectors import SteeringVector
from steercache.exchange.vectors.importing import import_vector
from tests.exchange.conftest import Engine
from tests.exchange.vector_cases import some_vector

BOS, BARE, CHAT = ["special", "text"], ["text", "text"], ["special", "template", "text", "template"]
PICTURE = ["image", "image", "special", "text"]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([BOS, BOS], (True, "none")),
        ([BARE, BARE], (False, "none")),
        ([CHAT], (True, "template")),
        ([PICTURE, PICTURE], (True, "none")),
        ([["text", "special"]], (False, "none")),
        ([["image", "image"]], (False, "none")),
        ([BOS, BARE], (None, "none")),
        ([BOS, CHAT], (True, None)),
        ([["template", "special", "text"]], (False, "template")),
        ([BOS] * (N_TOKENS // 2 - 1) + [["special"] + ["text"] * 9], (True, "none")),
        ([], (None, None)),
    ],
)
def test_conventions_are_read_from_the_kinds_of_tokens(
    samples: list[list[str]], expected: tuple[bool | None, str | None], tmp_path: Path
) -> None:
    rows = [(i, at, kind) for i, kinds in enumerate(samples) for at, kind in enumerate(kinds)]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    types = (pa.int32(), pa.int32(), pa.string())
    table = pa.table(
        {
            name: pa.array(column, type_)
            for name, column, type_ in zip(("sample_idx", "position", "kind"), columns, types, strict=True)
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert conventions_in(tmp_path / "t.parquet") == expected


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert conventions_in(tmp_path / "none.parquet") == (None, None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no table PAR1")
    assert conventions_in(tmp_path / "t.parquet") == (None, None)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    assert conventions_in(tmp_path / "t.parquet") == (None, None)


def test_a_fitted_vector_and_every_use_of_it_say_how_its_texts_began(
    cache: steercache.Cache, engine: Engine, tmp_path: Path
) -> None:
    bos = AutoTokenizer.from_pretrained(engine.model).bos_token_id
    begun = {int(one.token_ids[0]) == bos for one in engine.plain}
    (vector,) = cache.fit(concept="order", run="small", diagnose=False, progress=False)
    assert vector.fitted_on is not None
    assert ({vector.fitted_on.bos}, vector.fitted_on.chat) == (begun, "none")
    cache.save(replace(vector, use=steercache.VectorUse(layers=(1,))))
    kept = cache.vector(vector.vector_id)
    assert kept.use is not None
    assert (kept.use.bos, kept.use.chat) == (vector.fitted_on.bos, "none")
    vector.to_gguf(tmp_path / "v.gguf", use=steercache.VectorUse(phase="both", chat="template"), layers=[1])
    back = import_vector(tmp_path / "v.gguf").vector
    assert back.use is not None
    assert (back.use.bos, back.use.chat) == (vector.fitted_on.bos, "template")  # what is stated stays
    older = replace(vector, fitted_on=replace(vector.fitted_on, bos=None, chat=None))  # of a file of an earlier version
    cache.save(older)
    assert cache.vector(vector.vector_id).fitted_on == vector.fitted_on


@pytest.mark.parametrize(
    ("method", "to", "name"),
    [
        ("to_gguf", "gguf", "v.gguf"),
        ("to_easysteer", "easysteer", "v.gguf"),
        ("to_steering_vectors", "steering-vectors", "v.pt"),
        ("to_lm_eval", "lm-eval", "v.pt"),
        ("to_vllm_lens", "vllm-lens", "v.json"),
        ("to_npz", "npz", "v.npz"),
        ("to_saklas", "saklas", "v.safetensors"),
        ("to_pytorch", "pytorch", "v.py"),
        ("export", "gguf", "v.gguf"),
    ],
)
def test_a_vector_writes_itself_as_the_function_does(method: str, to: str, name: str, tmp_path: Path) -> None:
    vector = some_vector(use=None) if to == "saklas" else some_vector()
    for folder in ("its", "ours"):
        (tmp_path / folder).mkdir()
    its: Any = getattr(vector, method)(tmp_path / "its" / name, layers=[2])
    ours = steercache.export_vector(vector, tmp_path / "ours" / name, to=to, layers=[2])
    assert (its.format, its.layers, its.notes) == (ours.format, ours.layers, ours.notes)
    assert [path.name for path in its.paths] == [path.name for path in ours.paths]
    if to not in ("pytorch",):  # a script is no vector to be read back
        first, second = (import_vector(some.paths[0], source=to).vector for some in (its, ours))
        assert first.vector_id == second.vector_id
        assert isinstance(first, SteeringVector)
