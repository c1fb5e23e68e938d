"""An error of the disk, of permissions or of limits is said to be that, and only a damaged index a damaged index."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from steercache.core.errors import BudgetError, DamagedError, NotFoundError, SteercacheError, UsageError
from steercache.index.database import Index, file_error
from steercache.index.guard import Limits, run_query
from steercache.index.ingest import put_vector
from steercache.index.io_errors import UnreadableIndexError, io_error
from tests.index.small import vector_row

SPILLS = """
SELECT count(DISTINCT b) FROM (SELECT sha256(range::VARCHAR) || sha256((range + 1)::VARCHAR) AS b FROM range(1200000))
"""
LIMITS = Limits(memory_mib=64, spill_mib=4096)


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """A disk that takes files of so many bytes and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def spill(folder: Path) -> None:
    con = duckdb.connect(":memory:", config={"temp_directory": str(folder), "threads": "1"})
    try:
        run_query(con, SPILLS, {}, limits=LIMITS)
    finally:
        con.close()


def test_a_query_whose_temporary_files_find_no_room_says_so(tmp_path: Path) -> None:
    with largest_file(2_000_000), pytest.raises(BudgetError, match="the disk is full") as caught:
        spill(tmp_path / "spill")
    assert str(tmp_path / "spill") in str(caught.value.place)


def test_a_query_whose_temporary_folder_cannot_be_made_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught:
        spill(tmp_path / "file" / "spill")
    assert caught.value.place == str(tmp_path / "file" / "spill")
    assert "rebuild" not in str(caught.value)


def test_an_index_that_the_disk_has_no_room_for_is_not_damaged(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.duckdb")
    with index.write() as con:
        put_vector(con, vector_row("v", 0))

    def write_much() -> None:
        with index.write() as con:
            con.execute("CREATE TABLE big AS SELECT range AS a, hash(range) AS b FROM range(1000000)")

    with largest_file(1_500_000), pytest.raises(BudgetError, match="the disk is full"):
        write_much()
    with index.read() as con:
        assert con.execute("SELECT vector_id FROM vectors").fetchall() == [("v",)]


@pytest.mark.parametrize("hurt", ["cut", "flipped"])
def test_an_index_damaged_while_a_query_reads_it_is_said_to_be(tmp_path: Path, hurt: str) -> None:
    path = tmp_path / "index.duckdb"
    with Index(path).write() as con:
        con.execute("INSERT INTO seen (path, state) SELECT hash(range)::VARCHAR, range FROM range(500000)")

    def query_while_it_is_hurt() -> None:
        with Index(path).read() as con:
            n_bytes = path.stat().st_size
            if hurt == "cut":
                os.truncate(path, 20_000)
            else:
                with path.open("r+b") as file:
                    file.seek(n_bytes // 2)
                    file.write(bytes(n_bytes // 4))
            run_query(con, "SELECT max(state), max(path) FROM seen", {}, limits=Limits())

    with pytest.raises(DamagedError, match="steercache cache rebuild"):
        query_while_it_is_hurt()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, BudgetError),
        (errno.EDQUOT, BudgetError),
        (errno.EFBIG, BudgetError),
        (errno.EMFILE, BudgetError),
        (errno.ENFILE, BudgetError),
        (errno.ENOMEM, BudgetError),
        (errno.EACCES, UsageError),
        (errno.EROFS, UsageError),
        (errno.ENOENT, NotFoundError),
        (errno.EIO, DamagedError),
        (errno.ESTALE, DamagedError),
        (errno.ENOTDIR, UsageError),
    ],
)
def test_the_systems_own_words_decide(code: int, kind: type[SteercacheError], tmp_path: Path) -> None:
    message = f'IO Error: Could not write file "/spill/x.tmp": {os.strerror(code)}'
    for found in (io_error(duckdb.IOException(message)), file_error(duckdb.IOException(message), tmp_path)):
        assert type(found) is kind
        assert found.place == "/spill/x.tmp"
        assert "rebuild" not in str(found)


def test_a_wrong_query_is_no_error_of_files() -> None:
    assert io_error(duckdb.BinderException("Binder Error: column x: No such file or directory")) is None
    assert io_error(duckdb.CatalogException("Catalog Error: no table")) is None


def test_a_damaged_index_is_still_rebuilt_automatically() -> None:
    for message in (
        "IO Error: The file exists, but it is not a valid DuckDB database file!",
        "Corrupt database file: x",
    ):
        assert type(io_error(duckdb.IOException(message))) is UnreadableIndexError


OUT_OF_FILES = """
import os, resource, sys
from pathlib import Path
from steercache.core.errors import SteercacheError
from steercache.index.database import Index
index = Index(Path(sys.argv[1]), wait_s=0.1)
with index.read() as con:
    con.execute("SELECT 1").fetchall()
fillers = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        fillers.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
os.close(fillers.pop())  # with none at all DuckDB 2.0.0 aborts the process
try:
    with index.read() as con:
        con.execute("SELECT * FROM vectors").fetchall()
except SteercacheError as error:
    kind = type(error).__name__
else:
    kind = "none"
for fd in fillers:
    os.close(fd)
print(kind)
"""


def test_a_process_at_its_limit_of_open_files_is_not_told_that_the_index_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "index.duckdb"
    with Index(path).write() as con:
        put_vector(con, vector_row("v", 0))
    command = [sys.executable, "-c", OUT_OF_FILES, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "BudgetError"
