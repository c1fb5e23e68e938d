"""Pooled rows: the mean of a sample's tokens of each kind, without position 0, in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steercache
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.verify import verify_run
from steercache.engines.crew import EngineOptions
from steercache.fit.shift import mean_shift
from tests.cache.contents import files_of, tables_of
from tests.runs.pictures import QUESTIONS, write_pictures_trace

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

LAYERS = (0, 2)
KINDS = ("text", "special", "image", "template")


@pytest.fixture(scope="module", params=["idefics3", "paligemma"])
def caches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same questions in bfloat16, with all rows, and pooled; sites of the residual stream and the connector."""
    folder = tmp_path_factory.mktemp(request.param)
    source = {"type": "path", "folder": "model"}
    model = {"kind": "model", "version": 1, "name": "tiny", "attention": "eager", "dtype": "bfloat16", "source": source}
    fields: dict[str, Any] = {"model": model, "layers": list(LAYERS), "sites": ["resid_post", "connector_out"]}
    whole = write_pictures_trace(folder, request.param, **fields).cache(folder / "whole")
    trace = write_pictures_trace(folder, request.param, rows={"policy": "pooled"}, rows_per_shard=16, **fields)
    return {"whole": whole, "pooled": trace.cache(folder / "pooled"), "trace": trace, "folder": folder}


def ask(cache: CacheFolder, sql: str) -> list[tuple[Any, ...]]:
    with cache.connection() as connection:
        return list(connection.execute(sql).fetchall())


def means_by_hand(cache: CacheFolder, site: str, layer: int) -> dict[tuple[int, str], np.ndarray]:
    """(sample, kind) -> mean over its tokens beyond position 0, from a run that kept every row."""
    source = cache.source(cache.resolve_run("pictures"))
    found: dict[tuple[int, str], list[np.ndarray]] = {}
    for sample, kind, row in ask(cache, "select sample_idx, kind, row_idx from tokens where position > 0"):
        value = source.gather(site, layer, np.array([row]))[0].astype(np.float64)
        found.setdefault((sample, kind), []).append(value)
    return {key: np.mean(rows, axis=0).astype(np.float32) for key, rows in found.items()}


def test_every_pooled_row_is_the_mean_over_the_tokens_of_its_kind_without_position_0(caches: dict[str, Any]) -> None:
    pooled: CacheFolder = caches["pooled"]
    source = pooled.source(pooled.resolve_run("pictures"))
    assert source.document.layout.dtype == "float32"
    rows = ask(pooled, "select sample_idx, kind, row_idx from tokens where row_idx is not null order by row_idx")
    for site, layer in (("resid_post", 0), ("resid_post", 2), ("connector_out", -1)):
        expected = means_by_hand(caches["whole"], site, layer)
        assert len(rows) == len(expected)
        for sample, kind, row in rows:
            got = source.gather(site, layer, np.array([row]))[0]
            np.testing.assert_array_equal(got, expected[sample, kind], err_msg=f"{site} {layer} {sample} {kind}")


def test_a_pooled_row_stands_at_no_position_and_every_token_is_still_listed(caches: dict[str, Any]) -> None:
    pooled, whole = caches["pooled"], caches["whole"]
    means = ask(
        pooled,
        "select distinct position, token_id, piece, char_start, tile, is_anchor, is_control from tokens"
        " where row_idx is not null",
    )
    assert means == [(-1, -1, None, -1, -1, False, False)]
    listed = "select sample_idx, position, token_id, piece, kind, tile, patch_row, patch_col, token_type from tokens"
    assert ask(pooled, f"{listed} where position >= 0 order by all") == ask(whole, f"{listed} order by all")
    assert ask(pooled, "select row_kind, replayable, dtype from runs") == [("pooled", False, "float32")]
    assert ask(whole, "select row_kind, replayable, dtype from runs") == [("token", True, "bfloat16")]
    kinds = ask(
        pooled, "select sample_idx, list(kind::varchar order by row_idx) from tokens where position = -1 group by 1"
    )
    for sample, found in kinds:
        assert found == [kind for kind in KINDS if kind in found], "in the order of the kinds"
        assert ("image" in found) == (QUESTIONS[sample][1] is not None)
    generation = pooled.run_paths(pooled.resolve_run("pictures")).generation("g0001")
    n_rows = ask(pooled, "select n_rows from shards where shard_idx = 0")[0][0]
    for name in ("position", "token_id"):
        assert (np.fromfile(generation / name / "c.0", dtype="<i4")[:n_rows] == -1).all()
    assert (np.fromfile(generation / "sample_idx" / "c.0", dtype="<i4")[:n_rows] >= 0).all()


def test_pooled_rows_are_picked_and_fitted_like_others(caches: dict[str, Any]) -> None:
    session = steercache.open(caches["folder"] / "pooled")
    sql = (
        "select run_id, row_idx, (kind = 'image')::tinyint as label from tokens"
        " where position = -1 and kind in ('image', 'text')"
    )
    selection = session.select(sql)
    assert (selection.position == -1).all()
    vector = mean_shift(selection, layers=[2])
    expected = means_by_hand(caches["whole"], "resid_post", 2)
    side = {kind: np.mean([v for (_, k), v in expected.items() if k == kind], axis=0) for kind in ("image", "text")}
    np.testing.assert_allclose(vector.at(2), side["image"] - side["text"], rtol=1e-4, atol=1e-5)
    assert len(session.select("image_rows")) == sum(q[1] is not None for q in QUESTIONS)
    assert len(session.select("all_rows")) == len(expected)


@pytest.mark.slow  # starting workers takes seconds; sharing's tests do it by default
def test_workers_write_the_same_pooled_rows(caches: dict[str, Any], tmp_path: Path) -> None:
    caches["trace"].build(tmp_path / "workers", engine=EngineOptions(workers=2))
    assert files_of(tmp_path / "workers") == files_of(caches["pooled"].root)
    assert tables_of(tmp_path / "workers") == tables_of(caches["pooled"].root)


def test_pooled_runs_are_the_same_resumed_and_rebuilt(caches: dict[str, Any]) -> None:
    pooled, trace = caches["pooled"], caches["trace"]
    run_id = pooled.resolve_run("pictures")
    before = files_of(pooled.root), tables_of(pooled.root)
    assert len(pooled.run_document(run_id).shards) > 1
    pooled.run_paths(run_id).shard("g0001", 1).unlink()
    assert trace.build(pooled.root).n_shards_built == 1
    assert (files_of(pooled.root), tables_of(pooled.root)) == before
    (pooled.root / "index.duckdb").unlink()
    assert tables_of(pooled.root) == before[1]
    assert not [f for step in verify_run(open_cache(pooled.root), run_id) for f in step.findings]
    session = steercache.open(pooled.root)
    for name in ("check_shards_rows", "check_duplicate_rows", "check_rows_without_tokens"):
        assert session.query(name).fetchall() == [], name
