"""The writer: refuses what would be wrong rows, cleans up after itself and after writers that were killed."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steercache.core.errors import UsageError
from steercache.core.layout import ShardRecord
from steercache.core.unfinished import is_unfinished
from steercache.store.generation import create_generation, read_generation, set_complete
from steercache.store.reader import open_generation
from steercache.store.shard import ShardWriter
from steercache.store.verify import verify_file
from tests.store.written import NUMPY, small_layout, write_run

LAYOUT = small_layout()
COLUMN = np.zeros(5, dtype=np.int32)


@pytest.fixture
def writer(root: Path) -> ShardWriter:
    create_generation(root / "g0001", LAYOUT, attributes={})
    return ShardWriter(root / "g0001", LAYOUT, 1, n_rows=5)


def block(n: int, width: int = 6, dtype: Any = NUMPY["bfloat16"]) -> np.ndarray[Any, Any]:
    return np.ones((n, width), dtype=dtype)


@pytest.mark.parametrize(
    ("site", "layer_pos", "slot", "block_nd", "said"),
    [
        ("resid_post", 0, 0, block(2, dtype=np.float32), r"resid_post: a contiguous \(n, 6\) bfloat16 block"),
        ("resid_post", 0, 0, block(2, dtype=np.uint16), "resid_post: a contiguous"),
        ("resid_post", 0, 0, block(2, width=4), "resid_post: a contiguous"),
        ("resid_post", 0, 0, block(2)[:, ::-1], "resid_post: a contiguous"),
        ("resid_post", 0, 0, block(2)[0], "resid_post: a contiguous"),
        ("resid_post", 3, 0, block(2), "resid_post: layer 3 of 3"),
        ("resid_post", -1, 0, block(2), "resid_post: layer -1 of 3"),
        ("resid_post", 0, 4, block(2), "slots 4 to 6 of 5"),
        ("resid_post", 0, -1, block(2), "slots -1 to 1 of 5"),
        ("attn_out", 0, 0, block(2), "'attn_out' is no site"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(
    writer: ShardWriter, site: str, layer_pos: int, slot: int, block_nd: np.ndarray[Any, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        writer.write(site, layer_pos, slot, block_nd)


@pytest.mark.parametrize("rows", [range(2, 5), np.array([0, 2, 5])])
def test_pieces_of_rows_that_a_block_does_not_have_are_refused(writer: ShardWriter, rows: Any) -> None:
    pieces = [writer.piece(0, rows)]
    with pytest.raises((ValueError, IndexError)):
        writer.write_pieces("resid_post", 0, block(4), pieces)


def test_of_two_blocks_for_a_row_the_later_is_kept_and_summed(writer: ShardWriter) -> None:
    for layer_pos in range(3):
        writer.write("resid_post", layer_pos, 0, block(5))
    writer.write("resid_post", 1, 2, block(3) * NUMPY["bfloat16"](7))
    writer.write("mlp_out", 0, 0, block(5, 4))
    files = writer.finish(sample_idx=COLUMN, position=COLUMN, token_id=COLUMN)
    record = ShardRecord(shard_idx=1, first_sample=0, n_samples=1, n_rows=5, input_digest="", files=files)
    with open_generation(writer.path, (record,)) as reader:
        assert reader.shard_layer("resid_post", 1, 1)[:, 0].tolist() == [1, 1, 7, 7, 7]
        assert (reader.shard_layer("resid_post", 2, 1) == 1).all()
    assert [problem for file in files for problem in verify_file(writer.path.parent, file)] == []


def test_a_shard_with_rows_that_never_came_is_not_finished(writer: ShardWriter) -> None:
    for layer_pos in range(3):
        writer.write("resid_post", layer_pos, 0, block(5))
    writer.write("mlp_out", 0, 0, block(2, 4))
    writer.write("mlp_out", 0, 3, block(2, 4))
    with pytest.raises(ValueError, match="1 rows never came, first layer 0, slot 2"):
        writer.finish(sample_idx=COLUMN, position=COLUMN, token_id=COLUMN)
    assert [p.name for p in writer.path.rglob("c.*") if p.parent.name in ("resid_post", "mlp_out", "position")] == []


@pytest.mark.parametrize("column", [COLUMN[:4], COLUMN.astype(np.int64), COLUMN[:, None]])
def test_coordinates_of_another_length_or_type_are_refused(writer: ShardWriter, column: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match="position"):
        writer.finish(sample_idx=COLUMN, position=column, token_id=COLUMN)


def test_an_aborted_or_finished_writer_takes_no_more_rows(writer: ShardWriter) -> None:
    writer.abort()
    writer.abort()
    with pytest.raises(ValueError, match="given up"):
        writer.write("resid_post", 0, 0, block(1))
    assert [p for p in writer.path.rglob("*") if is_unfinished(p.name)] == []


@pytest.mark.parametrize(("shard_idx", "n_rows"), [(3, 1), (-1, 1), (0, 13), (0, -1)])
def test_a_shard_outside_the_layout_is_refused(root: Path, shard_idx: int, n_rows: int) -> None:
    create_generation(root / "g0001", LAYOUT, attributes={})
    with pytest.raises(ValueError, match="does not fit"):
        ShardWriter(root / "g0001", LAYOUT, shard_idx, n_rows=n_rows)


def test_what_a_killed_writer_left_is_removed_by_the_next_one_and_hidden_from_readers(root: Path) -> None:
    truth = write_run(root / "truth", LAYOUT, {0: 12, 1: 5})
    written = write_run(root / "run", LAYOUT, {0: 12})
    pid = os.fork()
    if pid == 0:
        killed = ShardWriter(written.path, LAYOUT, 1, n_rows=5)
        killed.write("resid_post", 0, 0, block(3))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    left = [p for p in written.path.rglob("*") if is_unfinished(p.name)]
    assert sorted(p.parent.name for p in left) == ["mlp_out", "resid_post"]
    assert len(written.open().gather("resid_post", 0, np.arange(12))) == 12
    again = ShardWriter(written.path, LAYOUT, 1, n_rows=5)
    for (site, shard), bits_lnd in truth.truth.items():
        for layer_pos, bits_nd in enumerate(bits_lnd if shard == 1 else []):
            again.write(site, layer_pos, 0, bits_nd.view(NUMPY["bfloat16"]))
    files = again.finish(**{name: truth.columns[name, 1] for name in ("sample_idx", "position", "token_id")})
    assert files == truth.records[1].files
    assert [p for p in written.path.rglob("*") if is_unfinished(p.name)] == []


def test_attributes_are_kept_and_ours_cannot_be_taken(root: Path) -> None:
    create_generation(root / "g0001", LAYOUT, attributes={"run_id": "abc", "name": "n"})
    info = read_generation(root / "g0001")
    assert info.attributes["run_id"] == "abc"
    assert (info.codec, info.lossy, info.complete, info.layout) == ("raw", False, False, LAYOUT)
    set_complete(root / "g0001", True)
    assert read_generation(root / "g0001").complete
    set_complete(root / "g0001", False)
    assert not read_generation(root / "g0001").complete
    with pytest.raises(UsageError, match="codec, lossy"):
        create_generation(root / "g0002", LAYOUT, attributes={"codec": "x", "lossy": False})
