"""DuckDB on a file system without record locks: told apart from a lock that somebody holds, by DuckDB's own words."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from steercache.core.locks import NoLocksError
from steercache.index.attach import naming_missing_locks
from tests.index.small import Sentence
from tests.queries.small_cache import add_run

# As DuckDB 2.0.1 said them when fcntl(F_SETLK) failed with ENOLCK, EOPNOTSUPP and EAGAIN.
REFUSED = {
    errno.ENOLCK: 'IO Error: Could not set lock on file "/x/index.duckdb": No locks available. See also https://duckdb.org',
    errno.EOPNOTSUPP: 'IO Error: Could not set lock on file "/x/index.duckdb": File locks are not supported for this file '
    "system, cannot open the file in read-write mode. Try opening the file in read-only mode. See also https://duckdb.org",
}
HELD = 'IO Error: Could not set lock on file "/x/index.duckdb": Conflicting lock is held in python3 (PID 7). See also https://duckdb.org'


@pytest.mark.parametrize("code", REFUSED)
def test_a_file_system_without_record_locks_is_named_with_a_way_out(code: int) -> None:
    with pytest.raises(NoLocksError, match="no locks") as caught, naming_missing_locks(Path("/x/index.duckdb")):
        raise duckdb.IOException(REFUSED[code])
    assert "Lustre" in str(caught.value.hint)


def test_a_lock_that_is_held_is_left_to_whoever_waits_for_it() -> None:
    with pytest.raises(duckdb.IOException, match="PID 7"), naming_missing_locks(Path("/x/index.duckdb")):
        raise duckdb.IOException(HELD)


REFUSING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
typedef int (*real)(int, int, ...);
static int answer(const char *name, int fd, int cmd, void *argument) {
    if (cmd == F_SETLK || cmd == F_SETLKW || cmd == F_GETLK) { errno = atoi(getenv("REFUSED_WITH")); return -1; }
    return ((real)dlsym(RTLD_NEXT, name))(fd, cmd, argument);
}
#define REPLACE(name) int name(int fd, int cmd, ...) { \
    va_list rest; va_start(rest, cmd); void *argument = va_arg(rest, void *); va_end(rest); \
    return answer(#name, fd, cmd, argument); }
REPLACE(fcntl)
REPLACE(fcntl64)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None or not sys.platform.startswith("linux"), reason="needs a C compiler")
@pytest.mark.parametrize("code", REFUSED)
def test_a_cache_there_is_read_from_its_files_and_no_empty_index_is_left(code: int, tmp_path: Path) -> None:
    root = tmp_path / "root"
    add_run(root, "text", [[Sentence(text="plain words")]])
    (root / "index.duckdb").unlink()
    (tmp_path / "refusing.c").write_text(REFUSING)
    library = tmp_path / "refusing.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "refusing.c", "-ldl"], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library), "REFUSED_WITH": str(code)}

    def steercache(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "steercache.cli.main", *words, "--root", str(root)]
        return subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=Path(__file__).parents[2], timeout=120
        )

    assert steercache("query", "SELECT count(*) FROM samples", "--format", "csv").stdout.split()[-1] == "1"
    rebuilt = steercache("cache", "rebuild")
    assert rebuilt.returncode == NoLocksError.exit_code, rebuilt.stderr
    assert "no locks" in rebuilt.stderr
    assert not list(root.glob("index.duckdb*[!k]"))  # the lock's own file may stay
