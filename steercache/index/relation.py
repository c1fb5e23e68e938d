"""A result as a DuckDB relation that holds nothing of the index."""

from typing import TypeAlias

import duckdb
import pyarrow as pa

Relation: TypeAlias = duckdb.DuckDBPyRelation


def as_relation(table: pa.Table) -> Relation:
    """`table` as a relation of a database of its own: `.df()`, `.pl()`, `.to_arrow_table()`, or more SQL on top."""
    return duckdb.connect(":memory:").from_arrow(table)
