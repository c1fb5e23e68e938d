"""A run's rows as features: sae-lens' numbers bit for bit, sparse, resumable, verified, and honest about what is stale."""

import gc
import hashlib
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steercache.cache.compact import compact_run
from steercache.cache.feature_files import open_encoding
from steercache.cache.feature_rows import EncodedRows
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.remove import collect, leftovers, remove_encoding, remove_run
from steercache.cache.status import cache_status
from steercache.cache.verify import verify_root
from steercache.core.errors import NotFoundError, UsageError
from steercache.queries.session import open_session
from steercache.sae import encode_shard
from steercache.sae.encode import encode_run
from steercache.sae.loaded import LoadedSae
from steercache.sae.loading import load_sae
from steercache.sae.sparse import SparseEncoder
from tests.cache.killed import RENAMINGS, killed_before
from tests.sae.folders import D_SAE, inference, saved
from tests.sae.small_run import write_run

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jumprelu": ("jumprelu", {"apply_b_dec_to_input": False}),
    "jumprelu of centred rows": ("jumprelu", {"apply_b_dec_to_input": True}),
    "standard": ("standard", {}),
    "standard, rows normalised": ("standard", {"normalize_activations": "layer_norm"}),
    "topk": ("topk", {"k": 5}),
    "topk by decoder norm": ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    "gated": ("gated", {}),
    "abstopk": ("abstopk", {"k": 4}),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child cannot use its parent's thread pool
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> LoadedSae:
    return load_sae(saved(inference("jumprelu"), tmp_path_factory.mktemp("sae") / "small"))


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    write_run(tmp_path / "root")
    return open_cache(tmp_path / "root")


def dense_of(cache: CacheFolder, run_id: str, sae: LoadedSae, rows: np.ndarray) -> np.ndarray:
    """What sae-lens' own encode says of stored rows."""
    stored = cache.source(run_id).gather("resid_post", 1, rows)
    return sae.encode(torch.from_numpy(stored.astype(np.float32))).numpy()


def all_rows(cache: CacheFolder, run_id: str) -> np.ndarray:
    per_shard = cache.run_document(run_id).layout.rows_per_shard
    return np.concatenate([np.arange(i * per_shard, i * per_shard + 48) for i in range(4)])


def digests(folder: Path) -> dict[str, str]:
    kept = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "LOCK"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.parametrize("kind", KINDS)
def test_what_fires_in_a_batch_is_sae_lens_own_encode_bit_for_bit(kind: str) -> None:
    architecture, settings = KINDS[kind]
    module = inference(architecture, **settings)
    encoder = SparseEncoder(LoadedSae(module, spec=_spec()))
    x = torch.randn((70, 12), generator=torch.Generator().manual_seed(3))
    x[4] = 0
    for part in (x[:64], x[64:], x[:1]):  # buffers are used again, and made anew for other sizes
        with torch.no_grad():
            theirs = module.encode(part).numpy()
        found = encoder(part, first_slot=100)
        ours = np.zeros_like(theirs)
        ours[found.slot - 100, found.feature] = found.value
        assert np.array_equal(ours, theirs)
        assert np.array_equal(found.slot - 100, np.nonzero(theirs)[0])
        assert np.array_equal(found.feature, np.nonzero(theirs)[1])
    assert np.count_nonzero(theirs) > 0


def _spec() -> Any:
    from tests.queries.small_features import spec

    return type(spec())(**{**spec().record(), "d_in": 12, "d_sae": D_SAE})


def test_a_module_with_a_hook_goes_through_its_own_encode() -> None:
    module = inference("jumprelu")
    module.hook_sae_acts_post.register_forward_hook(lambda mod, args, out: out * 2)
    x = torch.randn((9, 12), generator=torch.Generator().manual_seed(3))
    found = SparseEncoder(LoadedSae(module, spec=_spec()))(x)
    with torch.no_grad():
        theirs = module.encode(x).numpy()
    assert np.array_equal(found.value, theirs[theirs != 0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoded_run_reads_back_as_sae_lens_encodes_its_rows(dtype: str, sae: LoadedSae, tmp_path: Path) -> None:
    run_id = write_run(tmp_path / "root", dtype=dtype)
    cache = open_cache(tmp_path / "root")
    heard: list[tuple[int, int]] = []
    done = encode_run(cache, sae, run_id, on_rows=lambda n, of: heard.append((n, of)))
    rows = all_rows(cache, run_id)
    whole = dense_of(cache, run_id, sae, rows)
    assert (done.n_rows, done.n_rows_new, done.n_entries) == (192, 192, np.count_nonzero(whole))
    assert heard[0] == (0, 192)
    assert heard[-1] == (192, 192)
    assert not done.lossy

    read = EncodedRows(open_encoding(cache.paths, sae.spec.sae_id, run_id))
    close = {"rtol": 1e-5, "atol": 1e-5}  # a product of other batches may round its sums in another order
    np.testing.assert_allclose(read.read(rows).dense(), whole, **close)
    some = np.array([130, 3, 3, 64, 0, 150])
    assert np.array_equal(read.read(some).dense(), read.read(rows).dense()[np.searchsorted(rows, some)])
    for shard_idx in range(4):
        np.testing.assert_allclose(
            read.read_shard(shard_idx).dense(), whole[shard_idx * 48 : shard_idx * 48 + 48], **close
        )
    for feature in (0, 17, D_SAE - 1):
        fired, value = read.read_feature(feature)
        assert np.array_equal(fired, rows[whole[:, feature] != 0])
        np.testing.assert_allclose(value, whole[whole[:, feature] != 0, feature], **close)
    for wrong in ([48], [-1], [256]):
        with pytest.raises(NotFoundError):
            read.read(np.array(wrong))
    with pytest.raises(NotFoundError):
        read.read_feature(D_SAE)


def test_a_second_encoding_computes_nothing(cache: CacheFolder, sae: LoadedSae) -> None:
    run_id = cache.resolve_run("text")
    encode_run(cache, sae, run_id)
    assert encode_run(cache, sae, run_id).n_rows_new == 0


def test_stretches_of_bounded_size_give_the_same_features(
    cache: CacheFolder, sae: LoadedSae, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = cache.resolve_run("text")
    rows = all_rows(cache, run_id)
    monkeypatch.setattr(encode_shard, "batch_rows", lambda d_sae: 16)
    whole = encode_run(cache, sae, run_id).rows.read(rows)
    remove_encoding(cache, sae.spec.sae_id, run_id)
    monkeypatch.setattr(encode_shard, "STRETCH_BYTES", 1)
    cut = encode_run(cache, sae, run_id)
    assert np.array_equal(cut.rows.read(rows).dense(), whole.dense())
    assert np.array_equal(cut.rows.read_feature(3)[0], rows[whole.of(3) != 0])


def test_rows_that_are_not_finite_have_no_features_and_are_counted(sae: LoadedSae, tmp_path: Path) -> None:
    run_id = write_run(tmp_path / "root", finite=False)
    cache = open_cache(tmp_path / "root")
    done = encode_run(cache, sae, run_id)
    assert done.n_non_finite == 2
    acts = done.rows.read(all_rows(cache, run_id))
    assert np.isfinite(acts.values).all()
    assert acts.l0[7] == acts.l0[48 + 2] == 0
    assert acts.l0[8] > 0


def test_an_encoding_killed_at_every_commit_goes_on_to_the_same_bytes(
    cache: CacheFolder, sae: LoadedSae, tmp_path: Path
) -> None:
    run_id = cache.resolve_run("text")
    paths = cache.paths.encoding(sae.spec.sae_id, run_id)
    encode_run(cache, sae, run_id)
    undisturbed = digests(paths.folder)
    assert len(undisturbed) == 9
    remove_encoding(cache, sae.spec.sae_id, run_id)
    n_killed = 0
    for number in (1, 2, 3, 1, 2, 2):  # counted from where the last one died: every file is once the one in flight
        n_killed += killed_before(number, RENAMINGS, lambda: encode_run(cache, sae, run_id))
        broken = [f for checked in verify_root(cache) for f in checked.findings]
        assert broken == []
    assert n_killed >= 5
    encode_run(cache, sae, run_id)
    collect(cache)
    assert digests(paths.folder) == undisturbed


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_no_committed_shard(cache: CacheFolder, sae: LoadedSae) -> None:
    run_id = cache.resolve_run("text")
    paths = cache.paths.encoding(sae.spec.sae_id, run_id)
    encode_run(cache, sae, run_id)
    undisturbed = digests(paths.folder)
    remove_encoding(cache, sae.spec.sae_id, run_id)
    draw = np.random.default_rng(0)
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            encode_run(cache, sae, run_id)
            os._exit(0)
        time.sleep(float(draw.uniform(0, 0.05)))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert [f for checked in verify_root(cache) for f in checked.findings] == []
        if paths.document.exists():
            fresh = open_encoding(cache.paths, sae.spec.sae_id, run_id).fresh
            assert all(digests(paths.folder)[r.file.path] == undisturbed[r.file.path] for r in fresh.values())
    encode_run(cache, sae, run_id)
    collect(cache)
    assert digests(paths.folder) == undisturbed


def test_damage_is_found_by_verify_and_mended_by_encoding_again(cache: CacheFolder, sae: LoadedSae) -> None:
    run_id = cache.resolve_run("text")
    done = encode_run(cache, sae, run_id)
    paths = done.encoding.paths
    undisturbed = digests(paths.folder)
    assert [f for checked in verify_root(cache) for f in checked.findings] == []
    for path, damage in (
        (paths.acts(1), lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:]),
        (paths.acts(2), lambda data: data[:-10]),
        (paths.record(3), lambda data: b"{" + data),
    ):
        path.write_bytes(damage(path.read_bytes()))
    found = [f for checked in verify_root(cache) for f in checked.findings]
    assert [f for checked in verify_root(cache, [run_id]) for f in checked.findings] == found
    short = f"sae/{sae.spec.sae_id[:12]}/{run_id[:12]}"
    assert sorted(f.place for f in found) == [
        f"{short}/acts/00001.parquet",
        f"{short}/acts/00002.parquet",
        f"{short}/shards/00003.json",
    ]
    paths.acts(1).unlink()  # as the remedy says
    assert encode_run(cache, sae, run_id).n_rows_new == 3 * 48
    assert digests(paths.folder) == undisturbed


def test_an_encoding_that_fails_in_a_shard_leaves_nothing_of_it_and_goes_on(
    cache: CacheFolder, sae: LoadedSae, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = cache.resolve_run("text")
    n_calls = 0

    def fails(self: SparseEncoder, x: torch.Tensor, *, first_slot: int = 0) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            raise RuntimeError("out of something")
        return whole(self, x, first_slot=first_slot)

    whole = SparseEncoder.__call__
    monkeypatch.setattr(encode_shard, "batch_rows", lambda d_sae: 32)  # two batches a shard: the second shard fails
    monkeypatch.setattr(encode_shard, "STRETCH_BYTES", 1)
    monkeypatch.setattr(SparseEncoder, "__call__", fails)
    with pytest.raises(RuntimeError, match="out of something"):
        encode_run(cache, sae, run_id)
    gc.collect()  # what Arrow does with the writer that was left touches no file
    paths = cache.paths.encoding(sae.spec.sae_id, run_id)
    assert [path.name for path in (paths.folder / "acts").iterdir()] == ["00000.parquet"]
    monkeypatch.undo()
    assert encode_run(cache, sae, run_id).n_rows_new == 3 * 48


def test_removing_a_run_takes_its_features_and_gc_what_a_killed_removal_left(
    cache: CacheFolder, sae: LoadedSae, tmp_path: Path
) -> None:
    run_id = cache.resolve_run("text")
    encode_run(cache, sae, run_id)
    paths = cache.paths.encoding(sae.spec.sae_id, run_id)
    size = sum(path.stat().st_size for path in paths.folder.rglob("*") if path.is_file())
    assert remove_run(cache, run_id) > size
    assert not paths.folder.exists()

    write_run(cache.root)
    encode_run(cache, sae, run_id)
    cache.run_paths(run_id).folder.rename(tmp_path / "gone")
    assert [item.path for item in leftovers(cache)] == [paths.folder]
    assert [item.reason for item in collect(cache)] == ["features of a run that is gone"]
    assert not cache.paths.encoding_folders()


def test_status_counts_encodings(cache: CacheFolder, sae: LoadedSae) -> None:
    run_id = cache.resolve_run("text")
    done = encode_run(cache, sae, run_id)
    (one,) = cache_status(cache).encodings
    assert (one.sae, one.run_id, one.layer, one.n_rows) == ("small", run_id, 1, 192)
    assert (one.n_rows_stale, one.n_rows_missing, one.n_entries, one.n_bytes) == (0, 0, done.n_entries, done.n_bytes)


@pytest.mark.parametrize("codec", ["blosc", "int8"])
def test_features_of_a_generation_that_is_no_longer_in_force_are_stale_and_computed_again(
    codec: Any, cache: CacheFolder, sae: LoadedSae
) -> None:
    run_id = cache.resolve_run("text")
    before = encode_run(cache, sae, run_id)
    rows = all_rows(cache, run_id)
    first = before.rows.read(rows).dense()
    compact_run(cache, run_id, codec=codec)
    stale = open_encoding(cache.paths, sae.spec.sae_id, run_id)
    assert (len(stale.stale), stale.n_rows, stale.complete) == (4, 0, False)
    with pytest.raises(NotFoundError, match="stale"):
        EncodedRows(stale).read(rows)
    with pytest.warns(match="0 of 192 rows"):
        assert open_session(cache.root).sql("SELECT count(*) FROM feature_acts").fetchall() == [(0,)]
    assert cache_status(cache).encodings[0].n_rows_stale == 192

    again = encode_run(cache, sae, run_id)
    assert (again.n_rows_new, again.n_rows_stale, again.lossy) == (192, 192, codec == "int8")
    found = again.rows.read(rows).dense()
    np.testing.assert_allclose(found, dense_of(cache, run_id, sae, rows), rtol=1e-5, atol=1e-5)
    assert np.array_equal(found, first) == (codec == "blosc")


def test_an_sae_that_does_not_fit_the_run_is_refused_with_both_sides_named(cache: CacheFolder, tmp_path: Path) -> None:
    run_id = cache.resolve_run("text")
    other = load_sae(saved(inference("standard", hook_name="blocks.7.hook_resid_post"), tmp_path / "other"))
    with pytest.raises(UsageError, match=r"reads layer 7 .*keeps layers 0, 1, 2"):
        encode_run(cache, other, run_id)
    assert not cache.paths.encoding_folders()


def test_sql_over_an_encoding_is_numpy_over_the_dense_features(cache: CacheFolder, sae: LoadedSae) -> None:
    run_id = cache.resolve_run("text")
    dense = encode_run(cache, sae, run_id).rows.read(all_rows(cache, run_id)).dense()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = open_session(cache.root)
        table = session.sql(
            "SELECT feature, count(*) AS n, max(value) AS top FROM feature_acts GROUP BY 1 ORDER BY 1"
        ).df()
    fires = np.flatnonzero((dense != 0).any(axis=0))
    assert table["feature"].tolist() == fires.tolist()
    assert table["n"].tolist() == (dense != 0).sum(axis=0)[fires].tolist()
    assert table["top"].tolist() == [dense[dense[:, f] != 0, f].max() for f in fires]


@pytest.mark.slow
def test_memory_of_an_encoding_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    from bench.sae import memory

    few, many = (row["value_mib"] for row in memory(tmp_path, rows=(100_000, 400_000), width=64, d_sae=1024))
    assert many < few + 60, (few, many)
    assert many < 500
