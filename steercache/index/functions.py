"""`activation(run_id, site, layer, row_idx)` and `vector(vector_id, layer)` in SQL, as Arrow functions.

DuckDB calls them once per 2,048 rows. Both return FLOAT[]: a name has one return type, and runs differ in width.
"""

import threading
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from duckdb.func import ARROW, SPECIAL

from steercache.core.errors import QueryError, SteercacheError
from steercache.core.selection import RowIndex

Float32Array = npt.NDArray[np.float32]
GatherRows = Callable[[str, str, int, RowIndex], npt.NDArray[Any]]  # run_id, site, layer, rows -> (n, d)
VectorAt = Callable[[str, int], npt.NDArray[Any]]  # vector_id, layer -> (d,)
_FLOATS = pa.list_(pa.float32())


def register_functions(con: duckdb.DuckDBPyConnection, *, activation: GatherRows, vector: VectorAt) -> list[QueryError]:
    """Give `con` the two functions. A NULL argument gives NULL.

    Returns a list into which our errors go (an unknown run, a layer that was not kept): DuckDB passes on only their text.
    """
    failures: list[QueryError] = []
    one_at_a_time = threading.Lock()  # DuckDB calls from its own threads; a reader's cache of chunks knows one

    def activations(run_id: Any, site: Any, layer: Any, row_idx: Any) -> pa.Array:
        with one_at_a_time:
            return _noting(failures, lambda: gather_lists([run_id, site, layer, row_idx], activation))

    def vectors(vector_id: Any, layer: Any) -> pa.Array:
        def rows_of(wanted: str, at: int, rows: RowIndex) -> npt.NDArray[Any]:
            return np.broadcast_to(one := vector(wanted, at), (len(rows), len(one)))

        with one_at_a_time:
            return _noting(failures, lambda: gather_lists([vector_id, layer, _zeros(layer)], rows_of))

    signatures: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "activation": (activations, ["VARCHAR", "VARCHAR", "BIGINT", "BIGINT"]),
        "vector": (vectors, ["VARCHAR", "BIGINT"]),
    }
    for name, (function, parameters) in signatures.items():
        con.create_function(name, function, parameters, "FLOAT[]", type=ARROW, null_handling=SPECIAL)
    return failures


def gather_lists(columns: list[Any], gather: Callable[..., npt.NDArray[Any]]) -> pa.Array:
    """One list of floats per row: `gather(*key, rows)` is called once per distinct key; the last column holds the rows.

    `columns` are Arrow columns of one length n; returns a list array of length n, NULL where any column is.
    """
    arrays = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in columns]
    present = np.logical_and.reduce([a.is_valid().to_numpy(zero_copy_only=False) for a in arrays])
    places = np.flatnonzero(present)
    if len(places) == 0:
        return pa.nulls(len(present), _FLOATS)
    *keys, rows = [a.take(pa.array(places)) for a in arrays]
    rows_n = rows.to_numpy().astype(np.int64)
    blocks: list[tuple[npt.NDArray[np.int64], Float32Array]] = []
    for key, members in _groups(keys):
        values = np.asarray(gather(*key, rows_n[members]), dtype=np.float32)
        blocks.append((places[members], values))
    return _as_lists(blocks, present)


def _groups(keys: list[Any]) -> list[tuple[tuple[Any, ...], npt.NDArray[np.int64]]]:
    """(key, its members) of each distinct combination of values."""
    codes = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        encoded = pc.dictionary_encode(key)
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy()
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return [(tuple(k[int(i)].as_py() for k in keys), np.flatnonzero(inverse == g)) for g, i in enumerate(first)]


def _as_lists(blocks: list[tuple[npt.NDArray[np.int64], Float32Array]], present: npt.NDArray[np.bool_]) -> pa.Array:
    widths = np.zeros(len(present), dtype=np.int32)
    for places, values in blocks:
        widths[places] = values.shape[1]
    offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    if len(blocks) == 1:  # places ascend, so the rows lie in order already
        flat = np.ascontiguousarray(blocks[0][1]).reshape(-1)
    else:
        flat = np.empty(offsets[-1], dtype=np.float32)
        for places, values in blocks:
            flat[offsets[places][:, None] + np.arange(values.shape[1])] = values
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=_FLOATS, mask=pa.array(~present))


def _noting(failures: list[QueryError], compute: Callable[[], pa.Array]) -> pa.Array:
    try:
        return compute()
    except SteercacheError as error:  # a copy: its traceback would hold the connection, which holds this list
        failures.append(QueryError(error.message, place=error.place, hint=error.hint))
        raise


def _zeros(column: Any) -> pa.Array:
    return pa.array(np.zeros(len(column), dtype=np.int64))
