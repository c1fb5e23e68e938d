"""The public Python API, used as a notebook would use it: on the shipped tiny models, from data files and pairs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import steercache
from steercache.api.files import column_names, dataset_of_file
from steercache.core.errors import NotFoundError, QueryError, UsageError

SENTENCES = (("There are two cats.", "two"), ("We see three dogs.", "three"), ("She has four birds.", "four"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    lines = ["text,anchor,concept,source", *(f'"{text}",{anchor},counting,me' for text, anchor in SENTENCES)]
    (folder / "numbers.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cache(folder: Path) -> steercache.Cache:
    opened = steercache.open(folder / "root", create=True)
    opened.build(folder / "numbers.csv", model="tiny-backbone", progress=False)
    return opened


def test_open_returns_a_cache_and_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no cache here"):
        steercache.open(tmp_path / "none")
    assert isinstance(steercache.open(tmp_path / "made", create=True), steercache.Cache)


def test_a_data_file_is_traced_without_a_manifest_and_its_labels_are_joined(cache: steercache.Cache) -> None:
    counted = cache.sql("SELECT concept, len(anchors) FROM samples ORDER BY sample_idx").fetchall()
    assert counted == [("counting", 1)] * len(SENTENCES)
    again = cache.build(Path(cache.root).parent / "numbers.csv", model="tiny-backbone", progress=False)
    assert (again.n_shards_built, again.name) == (0, "numbers")
    assert cache.run("numbers").run_id == again.run_id == str(again)


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        ("{text: text, anchor: anchor}", "columns concept, source, so they are not kept; to keep them as labels, add "
         "`columns: {concept: concept, meta: [source]}`"),
        ("{text: text, anchor: anchor, concept: concept}", "columns source, so they are not kept; to keep them as labels, "
         "add `columns: {meta: [source]}`"),
        ("{text: text, anchor: anchor, concept: concept, meta: [source]}", None),
    ],
)  # fmt: skip
def test_columns_that_a_manifest_does_not_name_are_named_with_the_remedy(
    cache: steercache.Cache, folder: Path, columns: str, remedy: str | None
) -> None:
    source = f"{{type: csv, path: numbers.csv, columns: {columns}}}"
    manifest = folder / "unnamed.yaml"
    manifest.write_text(
        "kind: trace\nversion: 1\nname: unnamed\nmodel: tiny-backbone\n"
        f"datasets:\n  - {{kind: dataset, version: 1, name: numbers, source: {source}}}\n"
    )
    planned = cache.plan(manifest, progress=False).notes
    built = cache.build(manifest, progress=False).notes
    for notes in (planned, built):
        found = [note for note in notes if note.startswith("numbers.csv: data set numbers does not name the ")]
        assert len(found) == (remedy is not None)
        assert all(str(remedy) in note for note in found)


def test_columns_are_found_by_their_usual_names(tmp_path: Path) -> None:
    file = tmp_path / "My Rows (2).jsonl"
    file.write_text(json.dumps({"Sentence": "a b", "word": "a", "label": "x", "extra": 1}) + "\n")
    found = dataset_of_file(file, kind="jsonl")
    assert found["name"] == "my-rows-2"
    assert found["source"]["columns"] == {"text": "Sentence", "anchor": "word", "concept": "label", "meta": ["extra"]}
    pq_file = tmp_path / "pairs.parquet"
    pl.DataFrame({"positive": ["a"], "negative": ["b"], "concept": ["c"]}).write_parquet(pq_file)
    assert column_names(pq_file, "parquet") == ["positive", "negative", "concept"]
    assert dataset_of_file(pq_file, kind="parquet")["source"]["type"] == "pairs"


def test_a_file_without_texts_or_without_a_model_is_an_error_that_says_what_to_do(
    cache: steercache.Cache, tmp_path: Path
) -> None:
    (tmp_path / "wrong.csv").write_text("words,label\na,b\n")
    with pytest.raises(UsageError, match="words, label"):
        cache.build(tmp_path / "wrong.csv", model="tiny-backbone")
    with pytest.raises(UsageError, match="name of a model"):
        cache.build(tmp_path / "wrong.csv")
    with pytest.raises(NotFoundError, match="no such file"):
        cache.build(tmp_path / "absent.csv", model="tiny-backbone")


def test_gathered_rows_are_float32_unless_the_stored_bits_are_wanted(cache: steercache.Cache) -> None:
    selection = cache.select("anchor_vs_control", concept="counting", run="numbers")
    stored = selection.gather(2, dtype="stored")
    values = selection.gather(2)
    assert (stored.dtype, values.dtype) == (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32))
    np.testing.assert_array_equal(values, stored.astype(np.float32))
    tensor = selection.torch(2)
    assert tensor.dtype == torch.bfloat16
    np.testing.assert_array_equal(tensor.float().numpy(), values)
    np.testing.assert_allclose(values.mean(axis=0), values.astype(np.float64).mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "mapping"])
def test_a_query_joins_frames_of_the_callers(cache: steercache.Cache, kind: str) -> None:
    columns = {"sample_idx": [0, 2], "mine": ["a", "b"]}
    frame = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table, "mapping": dict}[kind](columns)
    found = cache.sql("SELECT mine, concept FROM samples JOIN own USING (sample_idx) ORDER BY 1", tables={"own": frame})
    assert found.fetchall() == [("a", "counting"), ("b", "counting")]
    assert cache.sql("SELECT count(*) FROM samples").fetchall() == [(3,)], "the frame is gone with its query"


def test_a_frame_cannot_take_the_name_of_a_table_of_the_cache(cache: steercache.Cache) -> None:
    with pytest.raises(QueryError, match="is a table of the cache"):
        cache.sql("SELECT 1", tables={"Samples": {"a": [1]}})
    with pytest.raises(QueryError, match="is a list"):
        cache.sql("SELECT 1", tables={"own": [1, 2]})


def test_a_vector_is_fitted_saved_listed_and_fitted_again(cache: steercache.Cache) -> None:
    vector = steercache.fit.mean_shift(cache.select("anchor_vs_control", concept="counting", run=cache.run("numbers")))
    cache.save(vector)
    ((name, run),) = cache.vectors().project("name, run").fetchall()
    assert (name, run) == ("counting", "numbers")
    assert cache.refit("counting") == vector == cache.vector("counting")


def test_pairs_are_traced_once_and_select_the_last_token_of_each_side(cache: steercache.Cache) -> None:
    texts = [("The cat is happy.", "The cat is sad."), ("A good day.", "A bad day.")]
    selection = steercache.pairs("tiny-backbone", texts, concept="joy", cache=cache, progress=False)
    assert selection.label is not None
    assert selection.label.tolist() == [1, 0, 1, 0]
    model = steercache.load("tiny-backbone", root=cache.root)
    rows = []
    for text in (text for pair in texts for text in pair):  # a plain forward pass of one text, by hand
        encoded = model.tokenizer(text, return_tensors="pt")
        kept: list[torch.Tensor] = []
        hook = model.model.model.layers[1].register_forward_hook(lambda *a, kept=kept: kept.append(a[2]))
        model.model(**encoded)
        hook.remove()
        rows.append((kept[0][0] if isinstance(kept[0], tuple) else kept[0])[0, -1].float().numpy())
    np.testing.assert_allclose(selection.gather(1), np.stack(rows), rtol=0.05, atol=0.05)
    again = steercache.pairs("tiny-backbone", texts, concept="joy", cache=cache, progress=False)
    assert again.run_id == selection.run_id
    vector = steercache.fit.mean_shift(selection)
    expected = np.mean([rows[0] - rows[1], rows[2] - rows[3]], axis=0)
    np.testing.assert_allclose(vector.at(1), expected, atol=0.05)
    before, after = steercache.generate(model, vector, "The cat", layer=1, alphas=[0.0, 5.0], max_new_tokens=3)[
        0
    ].continuations
    assert (before.alpha, after.alpha) == (0.0, 5.0)


@pytest.mark.parametrize("pair", [("x",), "xy", ("a", "b", "c"), ("a", 1)])
def test_a_pair_that_is_not_two_texts_is_named(cache: steercache.Cache, pair: Any) -> None:
    with pytest.raises(UsageError, match="pair 1 is not two texts"):
        steercache.pairs("tiny-backbone", [("a", "b"), pair], cache=cache)


def test_a_data_file_nested_too_deep_is_an_error_and_no_crash(cache: steercache.Cache, tmp_path: Path) -> None:
    (tmp_path / "deep.jsonl").write_text('{"text":' + "[" * 100_000 + "\n")
    with pytest.raises(UsageError, match="cannot be read as jsonl"):
        cache.build(tmp_path / "deep.jsonl", model="tiny-backbone")


def test_progress_is_reported_to_a_callback(folder: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    opened = steercache.open(folder / "other", create=True)
    run = opened.build(folder / "numbers.csv", model="tiny-backbone", progress=lambda *said: seen.append(said))
    assert seen[-1][1] == seen[-1][2], "the last report says that all is done"
    assert run.n_shards_built == 1
    assert opened.plan(folder / "numbers.csv", model="tiny-backbone").n_shards_cached == 1


def test_files_are_verified_compacted_and_removed(folder: Path) -> None:
    opened = steercache.open(folder / "cared", create=True)
    run = opened.build(folder / "numbers.csv", model="tiny-backbone", progress=False)
    assert opened.verify(progress=False).ok
    before = opened.select("all_rows", run=run).gather(2)
    opened.compact(run, codec="blosc", progress=False)
    np.testing.assert_array_equal(opened.select("all_rows", run=run).gather(2), before)
    assert opened.collect_garbage(dry_run=True)
    assert opened.rebuild(progress=False) == 1
    assert opened.remove(run).n_bytes > 0
    assert opened.status().runs == ()


def test_every_public_name_can_be_had_and_is_documented() -> None:
    for name in steercache.__all__:
        assert getattr(steercache, name).__doc__, name
    assert set(steercache.__all__) <= set(dir(steercache))
    methods = [n for n in dir(steercache.Cache) if not n.startswith("_")]
    assert {"sql", "build", "fit", "evaluate", "screen", "sweep", "report", "words", "colours", "own", "drift"} <= {
        *methods
    }
    assert [n for n in methods if not getattr(steercache.Cache, n).__doc__] == []


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys, steercache; print([m for m in ('torch', 'duckdb', 'zarr', 'numpy', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tokens_are_readable_in_sql(cache: steercache.Cache) -> None:
    found = cache.sql(
        "SELECT string_agg(t.token_text, '' ORDER BY t.position) AS joined, any_value(s.text) AS text"
        " FROM tokens_with_text t JOIN samples s USING (run_id, sample_idx)"
        " WHERE t.kind = 'text' AND t.run = 'numbers' GROUP BY t.sample_idx"
    ).fetchall()
    assert found
    for joined, text in found:
        assert "".join(joined.split()) == "".join(text.split())
        assert not {"\u0120", "\u2581"} & set(joined)
