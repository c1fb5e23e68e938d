"""A run written again with a codec: readers, queries and fits work on it unchanged, and a loss is said."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from steercache.cache.compact import compact_run
from steercache.cache.handle import open_cache
from steercache.cache.remove import collect
from steercache.cache.status import cache_status
from steercache.cli.cache import status as status_command
from steercache.core.errors import UsageError
from steercache.core.layout import CodecName
from steercache.fit import mean_shift
from steercache.queries.session import open_session
from tests.cache.contents import tables_of
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
    rough = [rows.astype(np.float64) for rows in _all_rows(root)]
    cosines = np.concatenate([_cosine(a, b) for a, b in zip(exact, rough, strict=True)])
    assert done.error["min_cosine"] == pytest.approx(cosines.min(), abs=1e-6)
    assert done.error["max_abs"] == pytest.approx(
        max(np.abs(a - b).max() for a, b in zip(exact, rough, strict=True)), rel=1e-5
    )
    assert cosines.min() > 0.99
    (status,) = cache_status(open_cache(root)).runs
    places = [(site.site, layer) for site in cache.run_document(run_id).layout.sites for layer in site.layers]
    by_layer = {at: _cosine(a, b).min() for at, a, b in zip(places, exact, rough, strict=True)}
    assert {(one.site, one.layer): one.min_cosine for one in status.codec_error} == pytest.approx(by_layer, abs=1e-6)
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
