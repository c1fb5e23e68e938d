"""Rows whose files lie elsewhere: the same bits as from local files, by few requests, and never those of another object."""

import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steercache.core.errors import BusyError, DamagedError, NotFoundError
from steercache.core.layout import CodecName, SiteLayout, StoreLayout
from steercache.objects.segments import Segments
from steercache.store.elsewhere import BLOCK_BYTES, SEGMENT_BYTES
from steercache.store.reader import GenerationReader
from tests.objects.rows import Elsewhere, put_elsewhere
from tests.store.written import BITS, Written, plain_bits, recode_run, scratch, small_layout, write_run

WIDE = StoreLayout(
    sites=(SiteLayout(site="resid_post", layers=tuple(range(6)), width=512),),
    dtype="bfloat16",
    n_shards=3,
    rows_per_shard=2048,
    chunk_rows=256,
)  # a row is 1 KiB, a layer of a shard 2 MiB


@pytest.fixture
def root():  # type: ignore[no-untyped-def]
    with scratch() as folder:
        yield folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_run(tmp_path_factory.mktemp("wide"), WIDE, {0: 2048, 1: 2048, 2: 700}, make_bits=plain_bits)


def bits(reader: GenerationReader, layer: int, rows: object) -> np.ndarray:
    return reader.gather("resid_post", layer, np.asarray(rows)).view(BITS["bfloat16"])


def of(written: Written, layer: int, rows: object) -> np.ndarray:
    return written.rows("resid_post", layer, list(np.asarray(rows)))


@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_of_any_layer_and_codec_are_those_of_the_local_files(data: st.DataObject) -> None:
    codec: CodecName = data.draw(st.sampled_from(["raw", "blosc", "pcodec", "int8"]))
    dtype = data.draw(st.sampled_from(["float32", "bfloat16", "float16"]))
    with scratch() as root:
        written = write_run(root, small_layout(dtype), {0: 12, 2: 5}, seed=3, make_bits=plain_bits)
        path, records = (written.path, written.records) if codec == "raw" else recode_run(written, codec)
        local = GenerationReader(path, {r.shard_idx: r for r in records})
        remote = put_elsewhere(path, root).open(path.name, records)
        for _ in range(3):
            site, layer = data.draw(st.sampled_from([("resid_post", 0), ("resid_post", 5), ("mlp_out", 2)]))
            rows = np.array(data.draw(st.lists(st.sampled_from(written.used_rows()), max_size=20)), dtype=np.int64)
            assert remote.gather(site, layer, rows).tobytes() == local.gather(site, layer, rows).tobytes()
        for site, layer in (("resid_post", 2), ("mlp_out", 2)):
            mine, theirs = remote.layer_views(site, layer), local.layer_views(site, layer)
            assert [(n, a.tobytes()) for n, a in mine] == [(n, a.tobytes()) for n, a in theirs]


def test_only_blocks_of_the_asked_rows_are_requested_and_a_second_time_nothing(wide: Written, root: Path) -> None:
    elsewhere = put_elsewhere(wide.path, root)
    reader = elsewhere.open("g0001", wide.records)
    rows = np.array([5, 700, 2048, 4100, 5])
    assert np.array_equal(bits(reader, 3, rows), of(wide, 3, rows))
    assert len(elsewhere.store.ranges) == 4
    assert elsewhere.store.n_bytes == 4 * BLOCK_BYTES
    assert not elsewhere.store.heads
    assert np.array_equal(bits(reader, 3, rows[::-1]), of(wide, 3, rows[::-1]))
    assert len(elsewhere.store.ranges) == 4


def test_near_rows_come_by_one_request_and_whole_layers_by_large_ones(wide: Written, root: Path) -> None:
    elsewhere = put_elsewhere(wide.path, root)
    reader = elsewhere.open("g0001", wide.records)
    near = np.arange(0, 1000, 50)  # gaps of 50 KiB
    assert np.array_equal(bits(reader, 0, near), of(wide, 0, near))
    assert len(elsewhere.store.ranges) == 1
    elsewhere.store.forget()
    views = [rows for _, rows in reader.layer_views("resid_post", 4)]
    assert np.array_equal(np.concatenate(views).view(np.uint16), of(wide, 4, wide.used_rows()))
    assert len(elsewhere.store.ranges) == 3  # one of each shard, all at once
    assert elsewhere.store.n_bytes < (2048 + 2048 + 700) * 1024 + 6 * BLOCK_BYTES


def test_what_was_read_is_kept_over_a_restart(wide: Written, root: Path) -> None:
    elsewhere, rows = put_elsewhere(wide.path, root), np.arange(0, 4000, 7)
    bits(elsewhere.open("g0001", wide.records), 2, rows)
    elsewhere.store.forget()
    again = elsewhere.open("g0001", wide.records)
    assert np.array_equal(bits(again, 2, rows), of(wide, 2, rows))
    assert not elsewhere.store.ranges
    assert len(elsewhere.store.heads) == 2  # whether the objects are still those: once for each


def test_blocks_that_were_damaged_on_this_disk_are_brought_again(wide: Written, root: Path) -> None:
    elsewhere, rows = put_elsewhere(wide.path, root), np.arange(0, 2000)
    bits(elsewhere.open("g0001", wide.records), 1, rows)
    for entry in Segments(elsewhere.blocks).files():
        with open(entry.path, "r+b") as file:  # in the middle of layer 1
            file.seek(3 * 2**20)
            file.write(b"\xff" * 100)
    elsewhere.store.forget()
    assert np.array_equal(bits(elsewhere.open("g0001", wide.records), 1, rows), of(wide, 1, rows))
    assert len(elsewhere.store.ranges) == 1
    assert elsewhere.store.n_bytes == BLOCK_BYTES


def test_the_limit_holds_and_what_was_used_last_stays(wide: Written, root: Path) -> None:
    limit = 8 * 2**20
    elsewhere = put_elsewhere(wide.path, root, limit=limit)
    reader = elsewhere.open("g0001", wide.records)
    everything = np.array(wide.used_rows())
    for layer in (0, 1, 2, 3, 4, 5, 0):  # 4.7 MiB each
        assert np.array_equal(bits(reader, layer, everything), of(wide, layer, everything))
        assert elsewhere.used() <= limit
    views = [rows.view(np.uint16) for _, rows in reader.layer_views("resid_post", 3)]
    assert np.array_equal(np.concatenate(views), of(wide, 3, everything))
    assert elsewhere.used() <= limit


def test_the_segment_that_was_read_longest_ago_goes_first(wide: Written, root: Path) -> None:
    elsewhere = put_elsewhere(wide.path, root, limit=8 * 2**20)
    reader = elsewhere.open("g0001", wide.records)
    old, warm, new = np.arange(2048), 2048 + np.arange(2048), 4096 + np.arange(700)
    bits(reader, 0, old[:700])
    bits(reader, 0, warm[:700])
    os.utime(next(iter(sorted(elsewhere.blocks.rglob("*.seg")))))  # nothing but times tells which is older
    for path in elsewhere.blocks.rglob("*.seg"):
        os.utime(path, (1, 1))
    bits(reader, 0, old[:700])  # read again, from memory
    for layer in (1, 2, 3, 4, 5, 0):
        bits(reader, layer, new)
        bits(reader, 0, old[:700])
    for layer in (1, 2):
        bits(reader, layer, new)
    elsewhere.store.forget()
    fresh = elsewhere.open("g0001", wide.records)
    bits(fresh, 0, old[:700])
    assert not elsewhere.store.ranges
    bits(fresh, 0, warm[:700])
    assert elsewhere.used() <= 8 * 2**20


def test_an_object_that_was_replaced_is_never_mixed_with_what_was_kept(wide: Written, root: Path) -> None:
    elsewhere, rows = put_elsewhere(wide.path, root), np.arange(0, 2048, 3)
    reader = elsewhere.open("g0001", wide.records)
    bits(reader, 2, rows)
    path = elsewhere.place / "r" / "g0001" / "resid_post" / "c.0.0.0"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(bytes(len(data)))  # other bytes of the same size
    with pytest.raises(DamagedError, match="replaced"):
        bits(reader, 3, rows)  # the reader that knows the old one
    with pytest.raises(DamagedError, match="replaced"):
        bits(elsewhere.open("g0001", wide.records), 2, rows)  # a new process, which has all of it here
    path.write_bytes(data)
    record = wide.records[0].files[0]
    assert record.path.endswith("c.0.0.0")
    info = elsewhere.store.head("r/" + record.path)
    assert info is not None
    elsewhere.blocks_reader().accept(record, info.tag)  # it was read whole and found right
    assert np.array_equal(bits(elsewhere.open("g0001", wide.records), 2, rows), of(wide, 2, rows))


@pytest.mark.parametrize("codec", ["raw", "pcodec"])
def test_other_bytes_of_the_same_size_are_found_by_the_checksums_of_chunks(
    codec: CodecName, wide: Written, root: Path
) -> None:
    path, records = (wide.path, wide.records) if codec == "raw" else recode_run(wide, codec, name=f"g-{os.getpid()}")
    elsewhere = put_elsewhere(path, root)
    if codec != "raw":
        shutil.rmtree(path)
    place = elsewhere.place / "r" / path.name / "resid_post" / "c.0.0.0"
    data = bytearray(place.read_bytes())
    data[300_000] ^= 1
    place.write_bytes(data)
    reader = elsewhere.open(path.name, records)
    with pytest.raises(DamagedError):
        bits(reader, 0, np.arange(2048))
    assert np.array_equal(bits(reader, 5, [1, 2]), of(wide, 5, [1, 2]))


def test_a_missing_or_short_object_is_told(wide: Written, root: Path) -> None:
    elsewhere = put_elsewhere(wide.path, root)
    path = elsewhere.place / "r" / "g0001" / "resid_post" / "c.0.1.0"
    data = path.read_bytes()
    path.write_bytes(data[:-1000])
    with pytest.raises(DamagedError, match="committed"):
        bits(elsewhere.open("g0001", wide.records), 0, [2050])
    path.unlink()
    with pytest.raises((DamagedError, NotFoundError), match=r"not there|missing"):
        bits(elsewhere.open("g0001", wide.records), 0, [2050])
    assert np.array_equal(bits(elsewhere.open("g0001", wide.records), 0, [1]), of(wide, 0, [1]))


def test_threads_at_once_get_the_right_rows_while_segments_go(wide: Written, root: Path) -> None:
    elsewhere = put_elsewhere(wide.path, root, limit=4 * 2**20)
    reader, wrong = elsewhere.open("g0001", wide.records), []

    def work(seed: int) -> None:
        rng, used = np.random.default_rng(seed), np.array(wide.used_rows())
        for _ in range(12):
            layer, rows = int(rng.integers(6)), rng.choice(used, 120)
            try:
                found = bits(reader, layer, rows)
            except BusyError:  # a limit this small may be too small for four at once: refused, never wrong
                continue
            if not np.array_equal(found, of(wide, layer, rows)):
                wrong.append((layer, rows))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _in_a_process(place: Path, local: Path, limit: int, written: Written, seed: int, answers: object) -> None:
    reader = Elsewhere(place=place, local=local, limit=limit).open("g0001", written.records)
    rng, used = np.random.default_rng(seed), np.array(written.used_rows())
    good = True
    for _ in range(15):
        layer, rows = int(rng.integers(6)), rng.choice(used, 200)
        good = good and np.array_equal(bits(reader, layer, rows), of(written, layer, rows))
    answers.put(good)  # type: ignore[attr-defined]


def test_processes_at_once_share_one_folder_of_blocks(wide: Written, root: Path) -> None:
    elsewhere = put_elsewhere(wide.path, root, limit=4 * 2**20)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [
        context.Process(target=_in_a_process, args=(elsewhere.place, elsewhere.local, 4 * 2**20, wide, seed, answers))
        for seed in range(2)
    ]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=60) for _ in workers] == [True, True]
    for worker in workers:
        worker.join()
    assert elsewhere.used() <= 2 * 4 * 2**20  # each counts what it writes itself


def test_a_file_over_several_segments_is_read_across_their_borders(root: Path) -> None:
    layout = StoreLayout(
        sites=(SiteLayout(site="resid_post", layers=(0, 1), width=4096),),
        dtype="float32",
        n_shards=1,
        rows_per_shard=1280,
        chunk_rows=128,
    )
    written = write_run(root, layout, {0: 1280}, make_bits=plain_bits)
    assert written.records[0].files[0].n_bytes > 2 * SEGMENT_BYTES
    elsewhere = put_elsewhere(written.path, root)
    reader = elsewhere.open("g0001", written.records)
    rows = np.arange(900, 1130)  # a row is one block; segment 0 ends within layer 0
    found = reader.gather("resid_post", 0, rows).view(np.uint32)
    assert np.array_equal(found, written.rows("resid_post", 0, list(rows)))
    whole = reader.gather("resid_post", 1, np.arange(1280)).view(np.uint32)
    assert np.array_equal(whole, written.rows("resid_post", 1, list(range(1280))))
