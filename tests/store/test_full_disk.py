"""A full or read-only disk: named, with a way out; nothing half-written stays, and what was committed is whole."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steercache.core.errors import BudgetError, UsageError
from steercache.core.layout import SiteLayout, StoreLayout
from steercache.core.unfinished import is_unfinished
from steercache.store.generation import create_generation, set_complete
from steercache.store.recode import recode_shard
from steercache.store.shard import ShardWriter
from steercache.store.verify import verify_file
from tests.store.written import NUMPY, Written, write_run

LAYOUT = StoreLayout(  # a shard is about 400 KB
    sites=(SiteLayout(site="resid_post", layers=(0, 1, 2, 3), width=64),),
    dtype="bfloat16",
    n_shards=8,
    rows_per_shard=768,
    chunk_rows=64,
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here (the file-size tests run anyway): {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if is_unfinished(path.name)]


def assert_whole(written: Written) -> None:
    files = [f for r in written.records for f in r.files]
    assert [p for f in files for p in verify_file(written.path.parent, f)] == []
    rows = written.open().gather("resid_post", 3, np.arange(768))
    assert rows.tobytes() == written.truth["resid_post", 0][3].tobytes()


def test_a_shard_that_does_not_fit_is_refused_before_its_first_row_and_fits_after_space_is_freed(
    small_disk: Path,
) -> None:
    written = write_run(small_disk, LAYOUT, {0: 768, 1: 768})
    with pytest.raises(BudgetError, match="No space left") as caught:
        ShardWriter(written.path, LAYOUT, 2, n_rows=768)
    assert caught.value.hint is not None
    assert "gc" in caught.value.hint
    assert "c.0.2.0" in str(caught.value.place)
    assert temporaries(small_disk) == []
    assert_whole(written)
    (written.path / "resid_post" / "c.0.1.0").unlink()
    ShardWriter(written.path, LAYOUT, 2, n_rows=768).abort()


def test_a_disk_that_fills_up_in_the_middle_of_a_commit_leaves_nothing_behind(small_disk: Path) -> None:
    written = write_run(small_disk, LAYOUT, {0: 768})
    writer = ShardWriter(written.path, LAYOUT, 1, n_rows=768)
    for layer_pos in range(4):
        writer.write("resid_post", layer_pos, 0, written.truth["resid_post", 0][layer_pos].view(NUMPY["bfloat16"]))
    filler = os.open(small_disk / "filler", os.O_WRONLY | os.O_CREAT)
    room = os.statvfs(small_disk)
    os.write(filler, bytes(room.f_bavail * room.f_bsize))
    os.close(filler)
    column = np.zeros(768, dtype=np.int32)
    with pytest.raises(BudgetError):
        writer.finish(sample_idx=column, position=column, token_id=column)
    assert temporaries(small_disk) == []
    assert not (written.path / "resid_post" / "c.0.1.0").exists()
    assert_whole(written)


def test_recoding_onto_a_full_disk_leaves_the_old_generation_whole(small_disk: Path) -> None:
    written = write_run(small_disk, LAYOUT, {0: 768, 1: 768})
    create_generation(small_disk / "g0002", LAYOUT, attributes={}, codec="pcodec")
    with pytest.raises(BudgetError):
        recode_shard(written.open(), small_disk / "g0002", LAYOUT, 0, codec="pcodec")
    assert temporaries(small_disk) == []
    assert_whole(written)


def test_a_read_only_disk_is_named_and_still_read(small_disk: Path) -> None:
    written = write_run(small_disk, LAYOUT, {0: 768})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UsageError, match="Read-only") as caught:
        ShardWriter(written.path, LAYOUT, 1, n_rows=768)
    assert "another folder" in str(caught.value.hint)
    with pytest.raises(UsageError, match="Read-only"):
        set_complete(written.path, True)
    with pytest.raises(UsageError, match="Read-only"):
        create_generation(small_disk / "g0002", LAYOUT, attributes={})
    assert_whole(written)


AS_NOBODY = """
import os, sys
from pathlib import Path
import numpy as np
from steercache.core.errors import UsageError
from steercache.store.generation import read_generation
from steercache.store.mapped import map_file
from steercache.store.shard import ShardWriter
from tests.store.test_full_disk import LAYOUT

path = Path(sys.argv[1])
os.setuid(65534)
for work in (
    lambda: read_generation(path / "hidden"),
    lambda: map_file(path / "c.0", 1),
    lambda: ShardWriter(path / "g0001", LAYOUT, 1, n_rows=1),
):
    try:
        work()
    except UsageError as error:
        print(error.message)
"""


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")
def test_what_may_not_be_read_or_written_is_named(root: Path) -> None:
    root.chmod(0o755)
    write_run(root, LAYOUT, {0: 1})
    (root / "hidden").mkdir(mode=0o700)
    (root / "c.0").write_bytes(b"x")
    (root / "c.0").chmod(0o600)
    run = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(root)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.splitlines() == [
        "cannot read: Permission denied",
        "cannot read: Permission denied",
        "cannot write: Permission denied",
    ]


WITHIN_A_FILE_SIZE_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np
from steercache.core.errors import BudgetError
from steercache.store.recode import recode_shard
from steercache.store.shard import ShardWriter
from tests.store.test_full_disk import LAYOUT
from tests.store.written import write_run

written = write_run(Path(sys.argv[1]), LAYOUT, {0: 64})
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    ShardWriter(written.path, LAYOUT, 1, n_rows=768)
except BudgetError as error:
    print(error.message)
"""


def test_a_file_size_limit_is_a_budget_error_too(root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHIN_A_FILE_SIZE_LIMIT, str(root)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert "File too large" in run.stdout
    assert temporaries(root) == []
    assert not (root / "g0001" / "resid_post" / "c.0.1.0").exists()
