"""Rows of a selection come back from every format as they are stored; part of a run is a cache of its own."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

import steercache
from steercache import Cache, Selection
from steercache.core.errors import UsageError
from steercache.exchange.activations import tables
from tests.exchange.conftest import Engine
from tests.tracing import write_small_trace


@pytest.fixture
def selected(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Selection:
    monkeypatch.setattr(tables, "BATCH_BYTES", 4096)  # many batches: what lies between them is tested, too
    return cache.select("anchor_vs_control", concept="order", run="small")


def check_tokens(cache: Cache, selection: Selection, table: pa.Table) -> None:
    assert table["row_idx"].to_numpy().tolist() == selection.rows.tolist()
    assert table["label"].to_numpy().tolist() == selection.label.tolist()  # type: ignore[union-attr]
    sql = "SELECT row_idx, piece, position, token_id FROM tokens WHERE row_idx IS NOT NULL ORDER BY row_idx"
    by_row = {r: rest for r, *rest in cache.sql(sql).fetchall()}
    rows = zip(*(table[name].to_pylist() for name in ("row_idx", "piece", "position", "token_id")), strict=True)
    assert all(by_row[r] == rest for r, *rest in rows)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather"])
def test_parquet_and_arrow_hold_every_row_with_its_token(
    cache: Cache, selected: Selection, tmp_path: Path, name: str
) -> None:
    done = cache.export(selected, tmp_path / name, layers=[0, 2])
    table = pq.read_table(tmp_path / name) if name == "a.parquet" else pa.ipc.open_file(tmp_path / name).read_all()
    assert (done.n_rows, done.n_bytes) == (len(selected), (tmp_path / name).stat().st_size)
    check_tokens(cache, selected, table)
    for layer in (0, 2):
        column = table[f"resid_post_{layer}"].combine_chunks()
        assert (column.flatten().to_numpy().reshape(-1, 32) == selected.gather(layer)).all()
    said = json.loads(table.schema.metadata[b"steercache"])
    assert (said["run_id"], said["query"]["name"]) == (selected.run_id, "anchor_vs_control")


def test_a_datasets_folder_is_loaded_by_datasets(cache: Cache, selected: Selection, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    cache.export(selected, tmp_path / "set", file_format="datasets", layers=[1])
    loaded = datasets.load_from_disk(str(tmp_path / "set")).with_format("numpy")
    assert (np.stack(loaded[:]["resid_post_1"]) == selected.gather(1)).all()
    assert loaded[:]["row_idx"].tolist() == selected.rows.tolist()
    with pytest.raises(UsageError, match="something already"):
        cache.export(selected, tmp_path / "set", file_format="datasets")


def test_arrays_are_numpys_own_with_a_table_of_tokens(cache: Cache, selected: Selection, tmp_path: Path) -> None:
    cache.export(selected, tmp_path / "arrays", file_format="npy")
    for layer in range(3):
        assert (np.load(tmp_path / "arrays" / f"resid_post_{layer}.npy") == selected.gather(layer)).all()
    check_tokens(cache, selected, pq.read_table(tmp_path / "arrays" / "tokens.parquet"))


def test_safetensors_keeps_the_stored_bits(tmp_path: Path) -> None:
    model = {"kind": "model", "version": 1, "name": "tiny", "dtype": "bfloat16"}
    trace = write_small_trace(tmp_path / "t", n=8, model=model | {"source": {"type": "path", "folder": "model"}})
    trace.cache(tmp_path / "root")
    cache = steercache.open(tmp_path / "root")
    selected = cache.select("SELECT run_id, row_idx FROM tokens WHERE row_idx IS NOT NULL AND position > 0")
    cache.export(selected, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        values = file.get_tensor("resid_post_1")
        assert values.dtype == ml_dtypes.bfloat16
        assert values.tobytes() == selected.gather(1, dtype="stored").tobytes()
        assert (file.get_tensor("row_idx") == selected.rows).all()
        assert json.loads(file.metadata()["steercache"])["layers"] == [0, 1, 2]


def test_some_layers_of_a_run_are_a_cache_that_verifies_and_says_what_it_is(cache: Cache, tmp_path: Path) -> None:
    cache.compact("small", codec="blosc")
    part = cache.copy_part("small", tmp_path / "part", layers=[1, 2])
    other = steercache.open(tmp_path / "part")
    assert (part.sites, part.n_rows) == ({"resid_post": (1, 2)}, cache.run("small").n_rows)
    assert not other.verify().findings
    assert other.sql("SELECT parent_run_id FROM runs").fetchall() == [(cache.run("small").run_id,)]
    ids = "SELECT sample_idx, sample_id, n_tokens FROM samples ORDER BY 1"
    assert other.sql(ids).fetchall() == cache.sql(ids).fetchall()
    selections = [c.select("anchor_vs_control", concept="order") for c in (cache, other)]
    assert (selections[0].gather(2) == selections[1].gather(2)).all()
    (vector,), (of_part,) = (c.fit("mean_shift", concept="order") for c in (cache, other))
    np.testing.assert_array_equal(of_part.at(1), vector.at(1))
    assert cache.copy_part("small", tmp_path / "part", layers=[1, 2]).run_id == part.run_id


def test_some_rows_of_a_run_keep_their_tokens_and_the_others_have_no_row(cache: Cache, tmp_path: Path) -> None:
    last = "SELECT run_id, row_idx FROM tokens t WHERE position = 2"
    selected = cache.select(last)
    part = cache.copy_part("small", tmp_path / "part", selection=selected)
    other = steercache.open(tmp_path / "part")
    assert part.n_rows == len(selected)
    assert not other.verify().findings
    assert (other.select(last).gather(1) == selected.gather(1)).all()
    assert other.sql("SELECT count(*), count(row_idx) FROM tokens").fetchall() == [
        (cache.sql("SELECT count(*) FROM tokens").fetchall()[0][0], len(selected))
    ]
    with pytest.raises(UsageError, match="whole run"):
        cache.copy_part("small", tmp_path / "whole")
    with pytest.raises(UsageError, match="another cache"):
        cache.copy_part("small", cache.root, layers=[1])


def test_a_part_that_was_interrupted_goes_on(
    engine: Engine, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steercache.exchange.activations import part as module

    copy, seen = module._copy_shard, []

    def once(*given: object) -> int:
        if seen:
            raise KeyboardInterrupt
        seen.append(given)
        return copy(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_copy_shard", once)
    with pytest.raises(KeyboardInterrupt):
        cache.copy_part("small", tmp_path / "part", layers=[0])
    monkeypatch.setattr(module, "_copy_shard", copy)
    cache.copy_part("small", tmp_path / "part", layers=[0])
    cache.copy_part("small", tmp_path / "whole", layers=[0])
    parts = [steercache.open(tmp_path / name) for name in ("part", "whole")]
    files = [{p.name: p.read_bytes() for p in c.root.glob("runs/*/g0001/resid_post/c*")} for c in parts]
    assert files[0] == files[1]
