"""Records and layouts as JSON: round trips, and nothing but DamagedError for anything else."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.errors import DamagedError
from steercache.core.layout import FileRecord, ShardRecord
from steercache.store.documents import layout_from_json, layout_to_json, shard_record_from_json, shard_record_to_json
from tests.store.written import DTYPES, small_layout

CRC = st.integers(0, 2**32 - 1)
FILES = st.builds(
    FileRecord,
    path=st.from_regex(r"g\d{4}/[a-z_]{1,9}/c\.0\.\d{1,3}\.0", fullmatch=True),
    n_bytes=st.integers(0, 2**50),
    crc32c=CRC,
    chunk_crc32c=st.lists(CRC, max_size=5).map(tuple),
)
RECORDS = st.builds(
    ShardRecord,
    shard_idx=st.integers(0, 2**31),
    first_sample=st.integers(0, 2**40),
    n_samples=st.integers(0, 2**31),
    n_rows=st.integers(0, 2**31),
    input_digest=st.text(max_size=64),
    files=st.lists(FILES, max_size=4).map(tuple),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
PARTS = ["shard_idx", "n_rows", "files", "input_digest", "path", "n_bytes", "crc32c", "chunk_crc32c"]


@settings(deadline=None)
@given(RECORDS)
def test_records_go_through_json_and_back(record: ShardRecord) -> None:
    assert shard_record_from_json(json.loads(json.dumps(shard_record_to_json(record))), "here") == record


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_go_through_json_and_back(dtype: Any) -> None:
    layout = small_layout(dtype)
    assert layout_from_json(json.loads(json.dumps(layout_to_json(layout))), "here") == layout


@settings(deadline=None)
@given(JSON)
def test_any_other_json_is_a_damaged_record_and_a_damaged_layout(document: Any) -> None:
    for read in (shard_record_from_json, layout_from_json):
        with pytest.raises(DamagedError) as caught:
            read(document, "here")
        assert caught.value.place == "here"


NEITHER_COUNT_NOR_TEXT_NOR_LIST = JSON.filter(lambda v: type(v) not in (int, str, list))


@settings(deadline=None)
@given(RECORDS.filter(lambda r: len(r.files) > 0), st.sampled_from(PARTS), NEITHER_COUNT_NOR_TEXT_NOR_LIST)
def test_a_record_with_one_part_replaced_or_missing_is_damaged(record: ShardRecord, part: str, value: Any) -> None:
    document = copy.deepcopy(shard_record_to_json(record))
    target = document if part in document else document["files"][0]
    target[part] = value
    with pytest.raises(DamagedError):
        shard_record_from_json(document, "here")
    del target[part]
    with pytest.raises(DamagedError, match="missing"):
        shard_record_from_json(document, "here")


@pytest.mark.parametrize("path", ["/etc/passwd", "g0001/../../x", "..", "a\\b", "a\0b"])
def test_a_path_that_leaves_the_run_is_refused(path: str) -> None:
    record = ShardRecord(shard_idx=0, first_sample=0, n_samples=0, n_rows=0, input_digest="", files=())
    document = shard_record_to_json(record)
    document["files"] = [{"path": path, "n_bytes": 0, "crc32c": "00000000", "chunk_crc32c": ""}]
    with pytest.raises(DamagedError, match="outside the run"):
        shard_record_from_json(document, "here")


@pytest.mark.parametrize(("field", "value"), [("crc32c", "123"), ("crc32c", "0" * 10), ("chunk_crc32c", "0" * 10)])
def test_a_checksum_of_another_length_is_refused(field: str, value: str) -> None:
    file = {"path": "g/a", "n_bytes": 0, "crc32c": "00000000", "chunk_crc32c": ""} | {field: value}
    record = ShardRecord(shard_idx=0, first_sample=0, n_samples=0, n_rows=0, input_digest="", files=())
    with pytest.raises(DamagedError):
        shard_record_from_json(shard_record_to_json(record) | {"files": [file]}, "here")
