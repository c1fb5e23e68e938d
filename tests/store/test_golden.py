"""A store that format version 1 wrote, kept in the repository: read for ever, and written again with the same bytes."""

import json
from pathlib import Path

import numpy as np
import pytest

from steercache.core.layout import ShardRecord
from steercache.store.documents import shard_record_from_json
from steercache.store.generation import read_generation
from steercache.store.reader import open_generation
from steercache.store.verify import verify_file
from tests.store.golden import CODECS, LAYOUT, N_ROWS, V1, bits_of, columns_of, write_golden


def records_of(generation: str) -> list[ShardRecord]:
    path = V1 / f"{generation}.records.json"
    return [shard_record_from_json(document, str(path)) for document in json.loads(path.read_text())]


@pytest.mark.parametrize("generation", CODECS)
def test_every_bit_of_the_golden_store_is_read(generation: str) -> None:
    info = read_generation(V1 / generation)
    assert info.layout == LAYOUT
    assert (info.codec, info.lossy, info.complete) == (CODECS[generation], False, False)
    assert info.attributes["steercache_format"] == 1
    rows = [shard * LAYOUT.rows_per_shard + slot for shard, n in N_ROWS.items() for slot in range(n)]
    with open_generation(V1 / generation, records_of(generation)) as reader:
        for site in LAYOUT.sites:
            for layer_pos, layer in enumerate(site.layers):
                expected = np.stack([bits_of(site.site, layer_pos, row) for row in rows])
                read = reader.gather(site.site, layer, np.array(rows))
                assert read.view(np.uint16).tolist() == expected.tolist()


@pytest.mark.parametrize("generation", CODECS)
def test_the_golden_stores_files_are_what_its_records_say(generation: str) -> None:
    assert [p for r in records_of(generation) for f in r.files for p in verify_file(V1, f)] == []


def test_the_golden_bytes_are_the_formula_in_the_documented_layout() -> None:
    data = (V1 / "g0001/resid_post/c.0.2.0").read_bytes()
    fill = 0x7FC0
    for layer_pos in range(2):  # layers one after the other, each of two chunks of two rows of four values
        layer = np.frombuffer(data, dtype="<u2", count=16, offset=layer_pos * 32).reshape(4, 4)
        assert layer[:3].tolist() == [bits_of("resid_post", layer_pos, 8 + slot).tolist() for slot in range(3)]
        assert layer[3].tolist() == [fill] * 4
    index = np.frombuffer(data, dtype="<u8", count=8, offset=64).reshape(2, 2, 2)
    assert index.tolist() == [[[0, 16], [16, 16]], [[32, 16], [48, 16]]]
    assert len(data) == 64 + 64 + 4
    position = np.frombuffer((V1 / "g0001/position/c.2").read_bytes(), dtype="<i4")
    assert position.tolist() == [*columns_of(2)["position"].tolist(), -1]


def test_the_same_rows_are_written_with_the_same_bytes_today(root: Path) -> None:
    write_golden(root)
    golden = {path.relative_to(V1): path for path in V1.rglob("*") if path.is_file()}
    assert {path.relative_to(root) for path in root.rglob("*") if path.is_file()} == set(golden)
    for name, path in golden.items():
        # Compressed bytes are the compressor's business (a newer zstd may find shorter ones); what they decode to is not.
        if not (name.parts[0].startswith("g0002") and name.name.startswith(("c.0.", "g0002"))):
            assert (root / name).read_bytes() == path.read_bytes(), name
