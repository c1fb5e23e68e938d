"""A run written again with a codec: readers, queries and fits work on it unchanged, and a loss is said."""

import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from steercache.cache import compact
from steercache.cache.compact import compact_run
from steercache.cache.documents import write_shard_record
from steercache.cache.handle import open_cache
from steercache.cache.paths import RunPaths
from steercache.cache.remove import collect
from steercache.cache.source import committed_shards
from steercache.cache.status import cache_status
from steercache.cli.cache import status as status_command
from steercache.core.errors import NotFoundError, UsageError
from steercache.core.layout import CodecName
from steercache.engines.crew import EngineOptions
from steercache.fit import mean_shift
from steercache.queries.session import open_session
from steercache.store.generation import read_generation, update_attributes
from tests.cache.contents import files_of, tables_of
from tests.engines.pickled import work_in_process
from tests.tracing import SmallTrace, write_small_trace

SELECT = "select run_id, row_idx, is_anchor as label from tokens where is_anchor or is_control"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> SmallTrace:
    folder = tmp_path_factory.mktemp("trace")
    return write_small_trace(folder, n=30, dtype="bfloat16", sites=["resid_post", "mlp_out"])


@pytest.mark.parametrize("codec", ["blosc", "pcodec"])
def test_a_lossless_generation_gives_the_same_rows_tables_and_vectors(
    codec: CodecName, trace: SmallTrace, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    cache = trace.cache(root)
    run_id = cache.resolve_run("small")
    before_rows = _all_rows(root)
    before = mean_shift(open_session(root).select(SELECT))
    tables = tables_of(root)
    done = compact_run(cache, run_id, codec=codec)
    assert done.generation == "g0002"
    for fresh in (open_cache(root), cache):  # a handle that was open before sees the new generation as well
        assert fresh.source(run_id).generation == "g0002"
        assert fresh.source(run_id).reader.codec == codec
    assert all(
        np.array_equal(a.view(np.uint16), b.view(np.uint16)) for a, b in zip(_all_rows(root), before_rows, strict=True)
    )
    after = mean_shift(open_session(root).select(SELECT))
    assert np.array_equal(after.values, before.values)
    assert (before.provenance["generation"], after.provenance["generation"]) == ("g0001", "g0002")
    assert {name: rows for name, rows in tables_of(root).items() if name in ("tokens", "samples", "sites")} == {
        name: tables[name] for name in ("tokens", "samples", "sites")
    }
    freed = collect(open_cache(root))
    assert any(item.path.name == "g0001" for item in freed)
    assert all(
        np.array_equal(a.view(np.uint16), b.view(np.uint16)) for a, b in zip(_all_rows(root), before_rows, strict=True)
    )
    assert trace.build(root).n_shards_built == 0, "a compacted run is still the run"


def test_int8_says_that_it_is_lossy_and_how_much_and_cannot_be_recoded(trace: SmallTrace, tmp_path: Path) -> None:
    root = tmp_path / "root"
    cache = trace.cache(root)
    run_id = cache.resolve_run("small")
    exact = [rows.astype(np.float64) for rows in _all_rows(root)]
    before = mean_shift(open_session(root).select(SELECT))
    done = compact_run(cache, run_id, codec="int8")
    with open_cache(root).connection() as connection:
        found = connection.sql("SELECT * FROM codec_errors WHERE run_id = $run", params={"run": run_id})
        in_sql = {(row["site"], row["layer"]): row for row in found.to_arrow_table().to_pylist()}
    rough = [rows.astype(np.float64) for rows in _all_rows(root)]
    cosines = np.concatenate([_cosine(a, b) for a, b in zip(exact, rough, strict=True)])
    assert done.error["min_cosine"] == pytest.approx(cosines.min(), abs=1e-6)
    assert done.error["max_abs"] == pytest.approx(
        max(np.abs(a - b).max() for a, b in zip(exact, rough, strict=True)), rel=1e-5
    )
    assert cosines.min() > 0.99
    (status,) = cache_status(open_cache(root)).runs
    places = [(site.site, layer) for site in cache.run_document(run_id).layout.sites for layer in site.layers]
    by_layer = {at: _errors(a, b) for at, a, b in zip(places, exact, rough, strict=True)}
    assert in_sql.keys() == by_layer.keys()
    for one in status.codec_error:
        measures = {k: v for k, v in asdict(one).items() if k not in ("site", "layer")}
        assert measures == pytest.approx(by_layer[one.site, one.layer], rel=1e-9)
        assert in_sql[one.site, one.layer] == {"run_id": run_id, "generation": "g0002", **asdict(one)}
    assert done.error["mean_relative"] == max(one.mean_relative for one in status.codec_error)
    kept = read_generation(cache.run_paths(run_id).generation("g0002")).attributes["codec_error"]
    assert {(site, row["layer"]): row["mean_relative"] for site, rows in kept.items() for row in rows} == {
        (one.site, one.layer): one.mean_relative for one in status.codec_error
    }
    said = CliRunner().invoke(status_command, ["--root", str(root)])
    assert (
        f"small is lossy (int8): rows differ by up to {max(e.max_relative for e in status.codec_error):.2%}"
        in said.output
    )
    source = open_cache(root).source(run_id)
    assert source.lossy
    after = mean_shift(open_session(root).select(SELECT))
    assert _cosine(before.values.astype(np.float64), after.values.astype(np.float64)).min() > 0.99
    assert after.provenance["lossy"] is True
    with pytest.raises(UsageError, match="lossy"):
        compact_run(open_cache(root), run_id, codec="blosc")


def test_a_run_that_is_not_complete_cannot_be_compacted(trace: SmallTrace, tmp_path: Path) -> None:
    cache = trace.cache(tmp_path / "root")
    run_id = cache.resolve_run("small")
    cache.run_paths(run_id).shard("g0001", 1).unlink()
    with pytest.raises(UsageError, match="not complete"):
        compact_run(open_cache(tmp_path / "root"), run_id, codec="blosc")


def _all_rows(root: Path) -> list[np.ndarray]:
    cache = open_cache(root)
    source = cache.source(cache.resolve_run("small"))
    layout = source.document.layout
    rows = np.concatenate([s.shard_idx * layout.rows_per_shard + np.arange(s.n_rows) for s in source.document.shards])
    return [source.gather(site.site, layer, rows) for site in layout.sites for layer in site.layers]


def _errors(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    relative = np.linalg.norm(x - y, axis=1) / np.linalg.norm(x, axis=1)
    return {
        "n_rows": len(x),
        "mean_relative": relative.mean(),
        "max_relative": relative.max(),
        "max_abs": np.abs(x - y).max(),
        "mean_cosine": _cosine(x, y).mean(),
        "min_cosine": _cosine(x, y).min(),
    }


def test_a_lossy_generation_of_an_earlier_version_says_what_was_kept_of_it(trace: SmallTrace, tmp_path: Path) -> None:
    cache = trace.cache(tmp_path / "root")
    run_id = cache.resolve_run("small")
    compact_run(cache, run_id, codec="int8")
    (now,) = cache_status(cache).runs
    paths = cache.run_paths(run_id)
    worst = {"layer", "max_relative", "min_cosine", "max_abs"}  # all that there was, in the group alone
    kept = read_generation(paths.generation("g0002")).attributes["codec_error"]
    older = {site: [{k: row[k] for k in worst} for row in rows] for site, rows in kept.items()}
    update_attributes(paths.generation("g0002"), {"codec_error": older})
    for record in committed_shards(paths, "g0002"):
        write_shard_record(paths.shard("g0002", record.shard_idx), replace(record, codec_errors=()))
    (then,) = cache_status(open_cache(cache.root)).runs
    assert {(one.site, one.layer, one.max_relative) for one in then.codec_error} == {
        (one.site, one.layer, one.max_relative) for one in now.codec_error
    }
    assert {(one.n_rows, one.mean_relative, one.mean_cosine) for one in then.codec_error} == {(None, None, None)}
    with open_cache(cache.root).connection() as connection:
        rows = connection.execute("SELECT max_relative, mean_relative FROM codec_errors").fetchall()
    assert sorted(rows) == sorted((one.max_relative, None) for one in then.codec_error)
    paths.shard("g0002", 1).unlink()
    trace.build(cache.root)  # one shard's errors are known now, those of the others are not
    (mixed,) = cache_status(open_cache(cache.root)).runs
    assert mixed.codec_error == then.codec_error


def test_shards_of_an_int8_run_that_are_made_again_have_the_errors_that_they_had(
    trace: SmallTrace, tmp_path: Path
) -> None:
    cache = trace.cache(tmp_path / "root")
    run_id = cache.resolve_run("small")
    compact_run(cache, run_id, codec="int8")
    before, tables = files_of(cache.root), tables_of(cache.root)
    cache.run_paths(run_id).shard("g0002", 1).unlink()
    cache.run_paths(run_id).shard("g0001", 1).unlink()
    assert trace.build(cache.root).n_shards_built == 1
    assert files_of(cache.root) == before
    assert tables_of(cache.root)["codec_errors"] == tables["codec_errors"] != []


LOCAL = EngineOptions(workers=2)


def test_workers_write_the_same_bytes_and_go_on_where_a_compaction_was_cut(
    trace: SmallTrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With workers of this process; with those of others below, and in tests/runs/test_workers.py."""
    monkeypatch.setattr(os, "nice", lambda by: 0)
    seen: list[tuple[int, int]] = []
    cache = trace.cache(tmp_path / "here")
    run_id, root = cache.resolve_run("small"), tmp_path / "there"
    shutil.copytree(cache.root, root)
    compact_run(cache, run_id, codec="int8")
    other, paths = open_cache(root), open_cache(root).run_paths(run_id)
    source = other.source(run_id)  # open all the time
    compact_run(other, run_id, codec="int8")
    for shard_idx in range(1, len(committed_shards(paths, "g0002"))):
        paths.shard("g0002", shard_idx).unlink()
    paths.current.write_text("g0001\n")  # killed after its first shard
    monkeypatch.setattr(compact, "do_work", work_in_process)
    done = compact_run(
        open_cache(root), run_id, codec="int8", engine=LOCAL, on_shard=lambda n, of: seen.append((n, of))
    )
    assert files_of(root) == files_of(cache.root)
    assert tables_of(root) == tables_of(cache.root)
    assert done.generation == "g0002"
    n = seen[-1][1]
    assert seen == [(i, n) for i in range(1, n + 1)]
    assert source.gather("resid_post", 0, np.arange(2)).shape[0] == 2


def test_a_worker_whose_codecs_write_other_bytes_is_refused(trace: SmallTrace, tmp_path: Path) -> None:
    cache = trace.cache(tmp_path / "root")
    run_id = cache.resolve_run("small")
    job = compact._Job(paths=cache.run_paths(run_id), run_id=run_id, old="g0001", new="g0002", codec="pcodec")
    with pytest.raises(UsageError, match="other bytes"):
        compact._Worker(job, probe="pcodec 00000000", n_threads=1)
    elsewhere = replace(job, paths=RunPaths(tmp_path / "not-shared"))
    with pytest.raises(NotFoundError, match="does not see the run"):
        compact._Worker(elsewhere, probe="", n_threads=1)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def test_an_incomplete_run_of_a_manifest_that_has_no_name_is_not_built_by_a_name(
    trace: SmallTrace, tmp_path: Path
) -> None:
    cache = trace.cache(tmp_path / "root")
    run_id = cache.resolve_run("small")
    cache.run_paths(run_id).shard("g0001", 0).unlink()
    with pytest.raises(UsageError, match="not complete") as raised:
        compact_run(cache, run_id, codec="blosc")
    assert raised.value.hint == "finish it first: steercache build ITS_MANIFEST.yaml"
