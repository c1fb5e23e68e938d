"""Features of encoded runs as relations of a query: `feature_acts` over the Parquet files themselves, `sae_encodings` beside.

They are never copied into the index: each query that names one of them has them registered on its own connection.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from steercache.index.files import parquet_dataset

FEATURE_ROWS: Final = pa.schema(
    [
        pa.field("row_idx", pa.int64(), nullable=False),
        pa.field("feature", pa.int32(), nullable=False),
        pa.field("value", pa.float32(), nullable=False),
    ]
)
_KEYS: Final = {"sae_id": pa.string(), "run_id": pa.string(), "site": pa.string(), "layer": pa.int32()}
ENCODINGS: Final = pa.schema(
    [
        ("sae_id", pa.string()),
        ("sae", pa.string()),
        ("run_id", pa.string()),
        ("site", pa.string()),
        ("layer", pa.int32()),
        ("n_features", pa.int64()),
        ("n_rows", pa.int64()),
        ("n_rows_of_run", pa.int64()),
        ("n_entries", pa.int64()),
        ("n_bytes", pa.int64()),
        ("complete", pa.bool_()),
        ("lossy", pa.bool_()),
    ]
)
RELATIONS: Final = ("feature_acts", "sae_encodings")

_KEY_COMMENTS: Final = {
    "sae_id": "SHA-256 over the weights of the SAE",
    "run_id": "run whose rows were encoded",
    "site": "where the encoded activations were taken",
    "layer": "zero-based decoder block",
}
COMMENTS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "feature_acts": (
        "Features of encoded runs, one row for each activation that is not zero. Read from Parquet files: not in the index.",
        {
            **_KEY_COMMENTS,
            "row_idx": "row of the run's arrays, as in tokens",
            "feature": "number of the feature, from 0",
            "value": "its activation, as the SAE's encoder gives it",
        },
    ),
    "sae_encodings": (
        "Encoded runs, one row for each run and SAE. Read from the files of the encodings: not in the index.",
        {
            **_KEY_COMMENTS,
            "sae": "name of the SAE",
            "n_features": "features of the SAE",
            "n_rows": "rows that have features",
            "n_rows_of_run": "rows of the run, encoded or not",
            "n_entries": "activations that are not zero",
            "n_bytes": "size of the Parquet files",
            "complete": "whether every row of the run has features of the generation in force",
            "lossy": "whether some rows had lost precision (int8) when they were encoded",
        },
    ),
}
"""What each relation and each of its columns holds, for the reference."""


def names_features(sql: str) -> bool:
    """Whether a statement may read one of the relations, or lists what there is.

    >>> names_features("FROM Feature_Acts LIMIT 1"), names_features("FROM tokens")
    (True, False)
    """
    text = sql.lower()
    return any(name in text for name in (*RELATIONS, "show ", "duckdb_", "information_schema"))


def register_features(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[tuple[Path, Mapping[str, Any]]],
    encodings: Sequence[Mapping[str, Any]],
) -> None:
    """Give `con` both relations: `files` are pairs (Parquet file, its sae_id, run_id, site and layer), `encodings` rows of
    `sae_encodings`."""
    con.register("feature_acts", parquet_dataset(FEATURE_ROWS, files, keys=_KEYS))
    con.register("sae_encodings", pa.Table.from_pylist([dict(row) for row in encodings], schema=ENCODINGS))


def describe_relations() -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """(relation, comment, its columns as (name, type, comment)), as DuckDB has them."""
    con = duckdb.connect()
    register_features(con, [], [])
    found = []
    for name in RELATIONS:
        about, columns = COMMENTS[name]
        described = con.execute(f"DESCRIBE {name}").fetchall()
        found.append((name, about, [(column, kind, columns[column]) for column, kind, *_ in described]))
    return found
