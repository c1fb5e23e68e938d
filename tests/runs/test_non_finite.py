"""Rows that a dtype cannot hold: counted while they are written, said, stored, verified, and refused by fits."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers import AutoModelForCausalLM

from steercache.cache.compact import compact_run
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.rebuild import rebuild_index
from steercache.cache.status import cache_status
from steercache.cache.verify import verify_root
from steercache.cli.main import run as command
from steercache.core.errors import DamagedError
from steercache.core.layout import ShardRecord
from steercache.fit import linear_probe, mean_shift
from steercache.queries.session import open_session
from steercache.runs.engine import BuildResult
from steercache.store.documents import shard_record_from_json, shard_record_to_json
from steercache.store.non_finite import count_non_finite
from tests.tracing import SmallTrace, write_small_trace

NUMPY = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
N_LAYERS = 3
DATASET = {
    "kind": "dataset",
    "version": 1,
    "name": "words",
    "source": {"type": "jsonl", "path": "data.jsonl", "columns": {"anchor": "anchor"}},
    "concept": "counting",
}


@pytest.mark.parametrize("dtype", NUMPY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rows_are_counted_by_their_bits_as_isfinite_counts_them(dtype: Any, data: st.DataObject) -> None:
    unsigned = np.dtype(f"<u{NUMPY[dtype].itemsize}")
    bits = data.draw(hnp.arrays(unsigned, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5)))
    finite = np.isfinite(bits.view(NUMPY[dtype]).astype(np.float64))
    assert count_non_finite(bits, dtype) == int((~finite).any(axis=1).sum())
    only_nan = np.isnan(bits.view(NUMPY[dtype]).astype(np.float64)).all(axis=1)
    assert count_non_finite(bits, dtype, gaps=True) == int(((~finite).any(axis=1) & ~only_nan).sum())


def overflowing(folder: Path, *, dtype: str = "float16") -> SmallTrace:
    """A trace in `dtype` of a model whose blocks 1 and 2 leave some rows beyond float16."""
    trace = write_small_trace(folder, n=30, datasets=[DATASET], dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 2e7
    model.save_pretrained(folder / "model")
    return trace


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallTrace, Path, BuildResult, list[str]]:
    folder = tmp_path_factory.mktemp("overflow") / "t"
    trace, notes = overflowing(folder), list[str]()
    result = trace.build(folder / "root", on_note=notes.append)
    return trace, folder / "root", result, notes


def by_hand(cache: CacheFolder) -> dict[tuple[int, int], int]:
    """(shard, layer) -> rows with a value that is not finite, read back from the files."""
    source = cache.source(cache.resolve_run("small"))
    found = {}
    for shard in source.document.shards:
        first = shard.shard_idx * source.document.layout.rows_per_shard
        for layer in range(N_LAYERS):
            rows = source.gather("resid_post", layer, np.arange(first, first + shard.n_rows)).astype(np.float64)
            found[shard.shard_idx, layer] = int((~np.isfinite(rows)).any(axis=1).sum())
    return {key: n for key, n in found.items() if n}


def test_what_overflows_is_counted_said_and_stored(built: tuple[SmallTrace, Path, BuildResult, list[str]]) -> None:
    _, root, result, notes = built
    cache = open_cache(root)
    expected = by_hand(cache)
    assert {layer for _, layer in expected} == {1, 2}
    assert sum(expected.values()) > 0
    of_layer = {n: sum(v for (_, layer), v in expected.items() if layer == n) for n in (1, 2)}
    assert {part.layer: part.n_rows for part in result.non_finite} == of_layer
    (said,) = [text for text in notes if "infinities" in text]
    assert "resid_post layer 1" in said
    assert "bfloat16" in said
    (status,) = cache_status(cache).runs
    assert status.non_finite == result.non_finite
    in_index = "select shard_idx, n_non_finite from shards order by shard_idx"
    shards: dict[int, int] = {}
    for (shard, _), n in expected.items():
        shards[shard] = shards.get(shard, 0) + n
    session = open_session(root)
    assert {s: n for s, n in session.sql(in_index).fetchall() if n} == shards
    assert {row[3]: row[4] for row in session.query("check_non_finite_rows").fetchall()} == shards


def test_verify_names_such_rows_and_finds_the_files_whole(
    built: tuple[SmallTrace, Path, BuildResult, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, root, _, _ = built
    cache = open_cache(root)
    findings = [f for checked in verify_root(cache) for f in checked.findings]
    assert {f.severity for f in findings} == {"values"}
    assert len(findings) == len({shard for shard, _ in by_hand(cache)})
    assert command(["cache", "verify", "--root", str(root)]) == 0
    out = capsys.readouterr()
    assert "rows with infinities or NaN: resid_post layer 1" in out.out
    assert "bfloat16" in out.err
    assert command(["cache", "status", "--root", str(root)]) == 0
    assert "small has rows with infinities" in capsys.readouterr().err.replace("\n", " ")


def test_fits_name_every_layer_and_its_count(built: tuple[SmallTrace, Path, BuildResult, list[str]]) -> None:
    _, root, _, _ = built
    selection = open_session(root).select("anchor_vs_control", concept="counting")
    bad = {n: int((~np.isfinite(selection.gather(n).astype(np.float64))).any(axis=1).sum()) for n in (1, 2)}
    fits = (
        lambda: mean_shift(selection),
        lambda: mean_shift(selection, recipe="paper"),
        lambda: linear_probe(selection),
        lambda: linear_probe(selection, recipe="paper"),
    )
    for fit in fits:
        with pytest.raises(DamagedError) as caught:
            fit()
        for layer, n in bad.items():
            assert f"layer {layer}: {n} of {len(selection)} rows" in caught.value.message
        assert "bfloat16" in str(caught.value.hint)
    assert np.isfinite(mean_shift(selection, layers=[0]).values).all()
    assert np.isfinite(linear_probe(selection, layers=[0]).values).all()


def test_the_count_survives_compaction_and_a_rebuilt_index(
    built: tuple[SmallTrace, Path, BuildResult, list[str]], tmp_path: Path
) -> None:
    trace, _, result, _ = built
    root = tmp_path / "root"
    trace.build(root)
    cache = open_cache(root)
    table = "select run_id, shard_idx, n_non_finite from shards order by all"
    before = open_session(root).sql(table).fetchall()
    compact_run(cache, cache.resolve_run("small"), codec="blosc")
    assert open_session(root).sql(table).fetchall() == before
    rebuild_index(cache)
    assert open_session(root).sql(table).fetchall() == before
    (status,) = cache_status(cache).runs
    assert status.non_finite == result.non_finite


def test_a_wider_dtype_holds_the_same_rows(tmp_path: Path) -> None:
    trace = overflowing(tmp_path / "t", dtype="bfloat16")
    result = trace.build(tmp_path / "root")
    assert result.non_finite == ()
    assert all(r.non_finite == () for r in _records(open_cache(tmp_path / "root")))


def _records(cache: CacheFolder) -> list[ShardRecord]:
    folder = cache.run_paths(cache.resolve_run("small")).shards("g0001")
    return [shard_record_from_json(json.loads(path.read_text()), str(path)) for path in sorted(folder.glob("*.json"))]


def test_a_record_from_before_rows_were_counted_says_nothing_and_keeps_its_digest() -> None:
    old = ShardRecord(shard_idx=0, first_sample=0, n_samples=1, n_rows=2, input_digest="d", files=())
    document = shard_record_to_json(old)
    assert "non_finite" not in document
    read = shard_record_from_json(document, "here")
    assert (read.non_finite, read.n_non_finite) == (None, None)
    assert read.digest() == "9d1586ae948e77a1adee1e45874babab380bfe7660d6c832fd6e1ba4f4964598"
