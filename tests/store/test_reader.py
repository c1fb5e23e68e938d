"""Reading: rows that are not there are named, arrays outlive their reader, threads do not disturb each other."""

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steercache.core.errors import NotFoundError
from steercache.core.layout import CodecName
from steercache.store.documents import shard_record_to_json
from steercache.store.reader import GenerationReader, open_generation
from tests.objects.rows import put_elsewhere
from tests.store.written import Written, recode_run, small_layout, write_run


@pytest.fixture
def written(root: Path) -> Written:
    return write_run(root, small_layout(), {0: 12, 2: 5})  # rows 0 to 11 and 24 to 28


@pytest.fixture(params=["side by side", "one by one", "pcodec", "elsewhere", "elsewhere pcodec"])
def reader(request: pytest.FixtureRequest, written: Written) -> GenerationReader:
    if request.param == "elsewhere":
        return put_elsewhere(written.path, written.path.parent).open("g0001", written.records)
    if request.param == "elsewhere pcodec":
        path, coded = recode_run(written, "pcodec")
        return put_elsewhere(path, path.parent).open(path.name, coded)
    if request.param == "pcodec":
        return open_generation(*recode_run(written, "pcodec"))
    records = {r.shard_idx: r for r in written.records}
    return GenerationReader(written.path, records, side_by_side=request.param == "side by side")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 29], "1 rows are not there: 29 (shard 2 has 5 rows)"),
        ([28, 12, 12, 13], "2 rows are not there: 12, 13 (shard 1 is not committed)"),
        ([-1], "1 rows are not there: -1 (shard -1 is not committed)"),
        ([36, 2**40, 5], "2 rows are not there: 36, 1099511627776 (shard 3 is not committed)"),
        (list(range(29, 36)), "7 rows are not there: 29, 30, 31, 32, 33, ... (shard 2 has 5 rows)"),
    ],
)
def test_rows_that_are_not_there_are_named(reader: GenerationReader, rows: list[int], message: str) -> None:
    for _ in range(2):  # before and after files were opened
        with pytest.raises(NotFoundError) as caught:
            reader.gather("resid_post", 0, np.array(rows))
        assert caught.value.message == message
        reader.gather("resid_post", 0, np.array([0, 28]))


def test_sites_and_layers_that_are_not_there_are_named_with_those_that_are(reader: GenerationReader) -> None:
    with pytest.raises(NotFoundError, match="no site 'attn_out'; there are: resid_post, mlp_out"):
        reader.gather("attn_out", 0, np.array([0]))
    with pytest.raises(NotFoundError, match="layer 1 of resid_post was not kept; there are: 0, 2, 5"):
        reader.layer_views("resid_post", 1)
    with pytest.raises(NotFoundError, match="shard 1 is not committed"):
        reader.n_rows(1)


def test_no_rows_is_an_empty_array_of_the_right_width(reader: GenerationReader) -> None:
    assert reader.gather("mlp_out", 2, np.array([], dtype=np.int64)).shape == (0, 4)


def test_row_numbers_of_any_integer_type_and_stride_do(reader: GenerationReader) -> None:
    expected = reader.gather("resid_post", 2, np.array([4, 24, 4], dtype=np.int64)).tobytes()
    assert reader.gather("resid_post", 2, np.array([4, 24, 4], dtype=np.int32)).tobytes() == expected
    assert reader.gather("resid_post", 2, np.array([4, 9, 24, 9, 4, 9])[::2]).tobytes() == expected


def test_views_are_a_sequence_of_shards_in_row_order(reader: GenerationReader) -> None:
    views = reader.layer_views("mlp_out", 2)
    assert [(first, rows.shape) for first, rows in views] == [(0, (12, 4)), (24, (5, 4))]
    assert len(views) == 2
    assert views[-1][0] == 24
    assert [first for first, _ in views[:1]] == [0]
    with pytest.raises(IndexError):
        views[2]


def test_what_is_gathered_is_a_copy_and_what_is_viewed_cannot_be_written(written: Written) -> None:
    with written.open() as reader:
        gathered = reader.gather("resid_post", 0, np.array([1]))
        before = gathered.tobytes()
        gathered[:] = 0
        assert reader.gather("resid_post", 0, np.array([1])).tobytes() == before
        _, view = reader.layer_views("resid_post", 0)[0]
        assert np.shares_memory(view, reader.layer_views("resid_post", 0)[0][1])
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 0


def test_views_outlive_their_reader_and_the_files_name(reader: GenerationReader) -> None:
    expected = reader.gather("resid_post", 5, np.arange(12)).tobytes()
    view: Any = reader.layer_views("resid_post", 5)[0][1]
    part = view[3:5]
    expected_part = part.tobytes()
    reader.close()
    (reader.path / "resid_post" / "c.0.0.0").unlink(missing_ok=True)
    del reader
    gc.collect()
    assert view.tobytes() == expected
    del view
    gc.collect()
    assert part.tobytes() == expected_part


READ_AT_EXIT = """
import atexit, json, sys
from pathlib import Path
from steercache.store.documents import shard_record_from_json

held = []
atexit.register(lambda: print(held[0][1].tobytes().hex()))  # runs after what is registered later
from steercache.store.reader import GenerationReader
records = [shard_record_from_json(document, "here") for document in json.load(sys.stdin)]
reader = GenerationReader(Path(sys.argv[1]), {r.shard_idx: r for r in records}, side_by_side=sys.argv[2] == "True")
held.append(reader.layer_views("resid_post", 5)[0])
"""


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_view_can_be_read_until_the_process_is_gone(written: Written, side_by_side: bool) -> None:
    run = subprocess.run(
        [sys.executable, "-c", READ_AT_EXIT, str(written.path), str(side_by_side)],
        input=json.dumps([shard_record_to_json(r) for r in written.records]),
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == written.truth["resid_post", 0][2].tobytes().hex()


@pytest.mark.parametrize("side_by_side", [True, False])
def test_files_are_let_go_when_reader_and_views_are_gone(written: Written, side_by_side: bool) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list its maps")
    shard = str(written.path / "resid_post" / "c.0.0.0")
    reader = GenerationReader(written.path, {r.shard_idx: r for r in written.records}, side_by_side=side_by_side)
    view = reader.layer_views("resid_post", 0)[0][1]
    assert shard in maps.read_text()
    reader.close()
    assert shard in maps.read_text()
    assert len(view) == 12
    del view
    gc.collect()
    assert shard not in maps.read_text()
    assert len(reader.gather("resid_post", 0, np.array([3]))) == 1  # a closed reader opens again when it is asked


@pytest.mark.parametrize("codec", ["raw", "blosc"])
def test_many_threads_gather_what_one_would(written: Written, codec: CodecName) -> None:
    reader = open_generation(*recode_run(written, codec))
    rng = np.random.default_rng(0)
    draws = [rng.choice(written.used_rows(), 40) for _ in range(60)]
    expected = [written.rows("resid_post", 1, rows.tolist()).tobytes() for rows in draws]
    found: dict[int, list[bytes]] = {}

    def gather(number: int) -> None:
        found[number] = [reader.gather("resid_post", 2, rows).tobytes() for rows in draws]

    threads = [threading.Thread(target=gather, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] == expected for number in range(8)] == [True] * 8
