"""What an index is made of, compared with what our migrations make: a file with anything else in it is not taken for ours."""

from functools import cache
from pathlib import Path

import duckdb

from steercache.index.attach import ALIAS, logs_of
from steercache.index.migrate import BOOK, MIGRATIONS

Objects = frozenset[tuple[str, ...]]  # (kind, schema, name, what it is made of)
_BOOK_TABLE = "schema_migrations"
# Named in full: a macro or view in the file can have any of these names. Comments are no code, and not compared.
_OBJECTS = " UNION ALL ".join(
    f"SELECT '{kind}', schema_name, {name}, {text} FROM system.main.{source}() WHERE database_name = $database{also}"
    for kind, source, name, text, also in (
        ("table", "duckdb_tables", "table_name", "sql", ""),
        ("view", "duckdb_views", "view_name", "sql", " AND NOT internal"),
        ("trigger", "duckdb_triggers", "trigger_name", "sql", ""),
        ("sequence", "duckdb_sequences", "sequence_name", "sql", ""),
        ("index", "duckdb_indexes", "index_name", "sql", ""),
        ("type", "duckdb_types", "type_name", "concat(logical_type, labels::VARCHAR)", " AND NOT internal"),
        ("function", "duckdb_functions", "function_name", "coalesce(macro_definition, '')", " AND NOT internal"),
        ("schema", "duckdb_schemas", "schema_name", "''", " AND schema_name <> 'main'"),
    )
)
_sound: dict[Path, tuple[int, ...]] = {}  # files found to be ours by this process, as they were then


def foreign_objects(con: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """What the attached index at `path` has, lacks or makes otherwise than our migrations do; none of it is run to find out.

    The tables of a newer steercache are not known: that it is newer is said by whoever asks for its version.
    """
    stamp = _stamp(path)
    if _sound.get(path) == stamp:
        return []
    found = _objects(con, ALIAS)
    if not found:
        return []  # an empty file: a process was killed before its first migration
    book = {item for item in found if item[2] == _BOOK_TABLE}
    if book != {item for item in _made_by(0) if item[2] == _BOOK_TABLE}:
        return [_BOOK_TABLE]
    version = _version(con)
    if version > MIGRATIONS[-1].version:
        return []
    wrong = sorted({f"{kind} {name}" for kind, _, name, _ in found ^ _made_by(version)})
    if not wrong:
        _sound[path] = stamp
    return wrong


def trust_written(path: Path) -> None:
    """Remember that the index at `path`, which was compared before, was since written by this process only.

    The caller holds the writers' lock. Comparing again would take most of the time of a short read or write.
    """
    _sound[path] = _stamp(path)


def _version(con: duckdb.DuckDBPyConnection) -> int:
    found = con.execute(f"SELECT max(version) FROM {ALIAS}.main.{_BOOK_TABLE}").fetchall()
    return int(found[0][0] or 0)


@cache
def _made_by(version: int) -> Objects:
    """What the migrations up to `version` make."""
    con = duckdb.connect(":memory:")
    try:
        con.execute("BEGIN")
        for sql in (BOOK, *(m.sql for m in MIGRATIONS if m.version <= version)):
            for statement in con.extract_statements(sql):
                if not statement.query.lstrip().upper().startswith("COMMENT"):
                    con.execute(statement)
        con.execute("COMMIT")
        return _objects(con, "memory")
    finally:
        con.close()


def _objects(con: duckdb.DuckDBPyConnection, database: str) -> Objects:
    rows = con.execute(_OBJECTS, {"database": database}).fetchall()
    return frozenset(tuple(map(str, row)) for row in rows)


def _stamp(path: Path) -> tuple[int, ...]:
    stats = [p.stat() for p in (path, *logs_of(path)) if p.exists()]
    return tuple(n for s in stats for n in (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns))
