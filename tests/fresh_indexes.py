"""New indexes of a test process are copies of one that the migrations made: making each anew was a tenth of the whole suite.

The migrations themselves run once in every process, for the first index, and wherever a test asks for `real_migrations`.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from steercache.index.attach import logs_of
from steercache.index.database import Index
from steercache.index.objects import trust_written

open_writer = Index._open_writer


@cache
def migrated() -> bytes:
    """An index without rows, as the migrations make it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "index.duckdb"
        with open_writer(Index(path)) as con:
            con.execute("CHECKPOINT")
        assert not any(log.exists() for log in logs_of(path))
        return path.read_bytes()


def open_a_copy(index: Index) -> object:
    """As `Index._open_writer`; where there is no file yet, a copy of the migrated one gets its name first."""
    if not index.path.exists() and not any(log.exists() for log in logs_of(index.path)):
        new = index.path.with_name(f"{index.path.name}.copy-{os.getpid()}")
        try:
            new.write_bytes(migrated())
        except OSError:  # a full disk: as the index itself meets it
            new.unlink(missing_ok=True)
            return open_writer(index)
        new.replace(index.path)
        trust_written(index.path)
    return open_writer(index)


@pytest.fixture(autouse=True, scope="session")
def fresh_indexes() -> Iterator[None]:
    """Copies in place of migrations, in the whole session."""
    patch = pytest.MonkeyPatch()
    patch.setattr(Index, "_open_writer", open_a_copy)
    yield
    patch.undo()


@pytest.fixture
def real_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new index is made by the migrations, as outside of tests."""
    monkeypatch.setattr(Index, "_open_writer", open_writer)
