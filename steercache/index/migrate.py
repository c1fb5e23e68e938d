"""Numbered migrations: from an empty file, or from the version it has, to the newest, each in order and once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from steercache.core.errors import DamagedError

_FOLDER = Path(__file__).parent / "migrations"
BOOK = """
CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER NOT NULL, name VARCHAR NOT NULL);
COMMENT ON TABLE schema_migrations IS 'Which migrations this index has been through.';
COMMENT ON COLUMN schema_migrations.version IS 'number of the migration, from 1';
COMMENT ON COLUMN schema_migrations.name IS 'its file, without the number';
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `migrations/`: `0001_tables.sql` is version 1, named tables."""

    version: int
    name: str
    sql: str


def load_migrations(folder: Path = _FOLDER) -> tuple[Migration, ...]:
    """Migrations of a folder, by version."""
    found = []
    for path in sorted(folder.glob("[0-9]*.sql")):
        number, _, name = path.stem.partition("_")
        found.append(Migration(version=int(number), name=name, sql=path.read_text(encoding="utf-8")))
    return tuple(found)


MIGRATIONS = load_migrations()


def version_of(con: duckdb.DuckDBPyConnection) -> int:
    """Version of the index that `con` is connected to; 0 for an empty file."""
    try:
        found = con.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchall()
    except duckdb.CatalogException:
        return 0
    return int(found[0][0])


def is_current(con: duckdb.DuckDBPyConnection, *, place: str, migrations: Sequence[Migration] = MIGRATIONS) -> bool:
    """Whether the index has been through every migration.

    Raises:
        DamagedError: a newer steercache has written it.
    """
    version, newest = version_of(con), migrations[-1].version
    if version > newest:
        raise DamagedError(
            f"the index has version {version}, this steercache knows up to {newest}",
            place=place,
            hint="upgrade steercache, or `steercache cache rebuild` to make the index again from the files",
        )
    return version == newest


def migrate(con: duckdb.DuckDBPyConnection, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply the migrations that `con`'s index lacks; the caller holds a transaction."""
    con.execute(BOOK)
    version = version_of(con)
    for migration in migrations:
        if migration.version > version:
            con.execute(migration.sql)
            con.execute("INSERT INTO schema_migrations VALUES (?, ?)", [migration.version, migration.name])
