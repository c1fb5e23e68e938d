"""Damaged files are named, with the layer and rows that they held, and are never read as if they were whole."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from steercache.core.errors import DamagedError, NotFoundError
from steercache.core.layout import CodecName, FileRecord
from steercache.store.documents import shard_record_from_json, shard_record_to_json
from steercache.store.generation import create_generation, read_generation
from steercache.store.reader import GenerationReader, open_generation
from steercache.store.recode import recode_shard
from steercache.store.verify import verify_file, verify_metadata
from tests.store.written import Written, plain_bits, recode_run, small_layout, write_run

LAYOUT = small_layout()


@pytest.fixture
def written(root: Path) -> Written:
    return write_run(root, LAYOUT, {0: 12, 1: 6})


def site_record(written: Written, shard: int, site: str = "resid_post") -> FileRecord:
    return next(f for f in written.records[shard].files if f"/{site}/" in f.path)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def problems_of(written: Written) -> list[str]:
    return [p for r in written.records for f in r.files for p in verify_file(written.path.parent, f)]


def test_a_healthy_run_has_no_problems(written: Written) -> None:
    assert problems_of(written) == []
    path, records = recode_run(written, "pcodec")
    assert [p for r in records for f in r.files for p in verify_file(path.parent, f)] == []


@pytest.mark.parametrize(
    ("layer_pos", "chunk", "named"),
    [(0, 0, "layer 0, rows 12 to 15"), (1, 1, "layer 2, rows 16 to 19"), (2, 0, "layer 5, rows 12 to 15")],
)
def test_verify_names_the_layer_and_rows_of_a_flipped_bit(
    written: Written, layer_pos: int, chunk: int, named: str
) -> None:
    record = site_record(written, 1)  # 6 of 12 rows: two chunks of four rows in each layer
    chunk_bytes = 4 * 6 * 2
    flip(written.path.parent / record.path, (layer_pos * 2 + chunk) * chunk_bytes + 5)
    assert problems_of(written) == [f"{record.path}: {named} differ"]


@pytest.mark.parametrize("codec", ["blosc", "pcodec", "int8"])
def test_verify_and_the_reader_name_a_flipped_bit_in_a_compressed_chunk(written: Written, codec: CodecName) -> None:
    path, records = recode_run(written, codec)
    record = next(f for f in records[0].files if "/resid_post/" in f.path)
    index = np.frombuffer((path.parent / record.path).read_bytes()[-148:-4], dtype="<u8").reshape(3, 3, 2)
    flip(path.parent / record.path, int(index[1, 2, 0]) + 3)
    assert verify_file(path.parent, record) == [f"{record.path}: layer 2, rows 8 to 11 differ"]
    with open_generation(path, records) as reader:
        reader.gather("resid_post", 0, np.array([9]))
        reader.gather("resid_post", 2, np.array([7]))
        with pytest.raises(DamagedError, match="chunk 2 of layer position 1 is damaged") as caught:
            reader.gather("resid_post", 2, np.array([7, 9]))
        assert caught.value.hint == "steercache cache verify"
        with pytest.raises(DamagedError, match="checksum"):
            reader.layer_views("resid_post", 2)[0]


def test_a_damaged_index_is_found_by_verify_and_by_the_reader(written: Written) -> None:
    record = site_record(written, 0)
    flip(written.path.parent / record.path, record.n_bytes - 10)
    assert problems_of(written) == [f"{record.path}: the chunk index is damaged"]
    for side_by_side in (True, False):
        reader = GenerationReader(written.path, dict(enumerate(written.records)), side_by_side=side_by_side)
        with pytest.raises(DamagedError, match="chunk index is damaged"):
            reader.gather("resid_post", 0, np.array([0]))
        reader.gather("mlp_out", 2, np.array([0]))


def test_a_damaged_index_does_not_hide_damaged_rows_of_a_raw_shard(written: Written) -> None:
    record = site_record(written, 0)
    flip(written.path.parent / record.path, record.n_bytes - 10)
    flip(written.path.parent / record.path, 0)
    assert problems_of(written) == [
        f"{record.path}: the chunk index is damaged",
        f"{record.path}: layer 0, rows 0 to 3 differ",
    ]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, cut_to_nothing, lengthen, Path.unlink, become_a_folder])
@pytest.mark.parametrize("codec", ["raw", "blosc"])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_short_long_or_missing_shard_is_an_error_and_not_a_crash(
    written: Written, codec: CodecName, side_by_side: bool, damage: Callable[[Path], None]
) -> None:
    path, records = recode_run(written, codec)
    file = path / "resid_post" / "c.0.1.0"
    damage(file)
    reader = GenerationReader(path, dict(enumerate(records)), side_by_side=side_by_side)
    assert len(reader.gather("resid_post", 0, np.arange(12))) == 12  # the other shard is whole
    with pytest.raises(DamagedError) as caught:
        reader.gather("resid_post", 0, np.array([3, 12]))
    assert caught.value.place == str(file)
    assert caught.value.hint == "steercache cache verify"
    with pytest.raises(DamagedError):
        reader.layer_views("resid_post", 0)[1]
    record = next(f for f in records[1].files if "/resid_post/" in f.path)
    (problem,) = verify_file(path.parent, record)
    assert problem.startswith(record.path)


def test_a_damaged_coordinate_is_named(written: Written) -> None:
    flip(written.path / "token_id" / "c.1", 9)
    assert problems_of(written) == ["g0001/token_id/c.1: the checksum differs"]


def test_verify_names_the_file_even_where_the_metadata_is_damaged_too(written: Written) -> None:
    record = site_record(written, 0)
    flip(written.path.parent / record.path, 0)
    (written.path / "zarr.json").write_text("{")
    assert problems_of(written) == [f"{record.path}: the checksum differs"]


def test_a_shard_that_another_writer_laid_out_otherwise_is_refused_and_not_misread(root: Path) -> None:
    written = write_run(root, LAYOUT, {0: 12}, make_bits=plain_bits)
    array: Any = zarr.open_group(written.path, mode="r+")["resid_post"]
    array[:, :12] = array[:, :12]  # zarr-python orders chunks its own way
    with pytest.raises(DamagedError, match="does not fit"):
        written.open().gather("resid_post", 0, np.array([0]))


def test_a_record_of_another_shard_is_refused(written: Written) -> None:
    with pytest.raises(DamagedError, match=r"no record of resid_post/c\.0\.0\.0"):
        open_generation(written.path, [replace(written.records[1], shard_idx=0)]).gather("resid_post", 0, np.array([0]))
    too_many = [replace(written.records[0], n_rows=13)]
    with pytest.raises(DamagedError, match="claims 13 rows"):
        open_generation(written.path, too_many).gather("resid_post", 0, np.array([0]))
    other_rows = [replace(written.records[0], n_rows=5)]
    with pytest.raises(DamagedError, match="does not fit"):
        open_generation(written.path, other_rows).gather("resid_post", 0, np.array([0]))


def test_damage_is_not_recoded_under_a_fresh_checksum(written: Written) -> None:
    record = site_record(written, 0)
    flip(written.path.parent / record.path, 0)
    create_generation(written.path.parent / "g0002", LAYOUT, attributes={}, codec="blosc")
    with pytest.raises(DamagedError, match="layer 0, rows 0 to 3 differ"):
        recode_shard(written.open(), written.path.parent / "g0002", LAYOUT, 0, codec="blosc")
    assert not (written.path.parent / "g0002" / "resid_post" / "c.0.0.0").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(steercache_format=99), "format 99"),
        (lambda a: a.update(codec="zip"), "unknown codec"),
        (lambda a: a.update(complete="yes"), "unknown codec"),
        (lambda a: a.pop("layout"), "not a layout"),
        (lambda a: a["layout"].update(dtype="float64"), "unknown dtype"),
        (lambda a: a["layout"].update(chunk_rows=5), "does not divide"),
        (lambda a: a["layout"].update(n_shards=-1), "a count was expected"),
        (lambda a: a["layout"].update(rows_per_shard=True), "a count was expected"),
        (lambda a: a["layout"]["sites"][0].pop("width"), "'width' is missing"),
        (lambda a: a.clear(), "not a group that steercache wrote"),
    ],
)
def test_damaged_metadata_is_named(written: Written, change: Callable[[Any], Any], message: str) -> None:
    path = written.path / "zarr.json"
    document = json.loads(path.read_text())
    change(document["attributes"])
    path.write_text(json.dumps(document))
    with pytest.raises(DamagedError, match=message) as caught:
        read_generation(written.path)
    assert caught.value.place == str(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"attributes": 3}', "\0\0\0\0", "[" * 100_000])
def test_metadata_that_is_no_json_or_no_group_is_named(written: Written, text: str) -> None:
    (written.path / "zarr.json").write_text(text)
    with pytest.raises(DamagedError):
        read_generation(written.path)


def test_damaged_or_missing_array_metadata_is_named_though_our_reader_does_not_need_it(written: Written) -> None:
    assert verify_metadata(written.path) == []
    flip(written.path / "layer_mlp_out" / "c.0", 0)
    flip(written.path / "resid_post" / "zarr.json", 30)
    (written.path / "position" / "zarr.json").unlink()
    assert sorted(verify_metadata(written.path)) == [
        "g0001/layer_mlp_out/c.0: not what the layout of the group asks for",
        "g0001/position/zarr.json: No such file or directory",
        "g0001/resid_post/zarr.json: not what the layout of the group asks for",
    ]
    assert len(written.open().gather("resid_post", 0, np.arange(12))) == 12


def test_a_generation_that_is_not_there_is_not_found(root: Path) -> None:
    with pytest.raises(NotFoundError):
        open_generation(root / "g0007", [])


def test_a_generation_of_another_layout_is_not_overwritten(written: Written) -> None:
    with pytest.raises(DamagedError, match="another layout"):
        create_generation(written.path, small_layout("float16"), attributes={})
    before = (written.path / "zarr.json").read_bytes()
    create_generation(written.path, LAYOUT, attributes={"run_id": "r"})
    assert (written.path / "zarr.json").read_bytes() == before


def test_a_store_moved_elsewhere_still_verifies_and_reads(written: Written, root: Path) -> None:
    truth = written.open().gather("mlp_out", 2, np.arange(6))
    shutil.move(written.path, root / "elsewhere" / "g0001")
    moved = replace(written, path=root / "elsewhere" / "g0001")
    assert problems_of(moved) == []
    assert moved.open().gather("mlp_out", 2, np.arange(6)).tobytes() == truth.tobytes()


def test_a_record_survives_json(written: Written) -> None:
    for record in written.records:
        text = json.dumps(shard_record_to_json(record))
        assert shard_record_from_json(json.loads(text), "here") == record
