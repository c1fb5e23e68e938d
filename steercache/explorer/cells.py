"""Results of SQL as cells of a table: short, whatever a value is."""

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute

from steercache.api.querying import plain

MAX_CELL: Final = 400  # characters
MAX_BYTES: Final = 1_000_000  # of all cells
_MAX_VALUE: Final = 65_536  # bytes of a value that is looked at as a whole
_LIST: Final = 6  # elements of a list


def cells_of(table: pa.Table) -> tuple[list[list[str]], int]:
    """Texts of the cells, row by row, and how many rows there was room for."""
    rows: list[list[str]] = []
    n_bytes = 0
    columns = [column.combine_chunks() for column in table.columns]
    for i in range(table.num_rows):
        row = [_cell(column, i) for column in columns]
        n_bytes += sum(map(len, row))
        if n_bytes > MAX_BYTES:
            break
        rows.append(row)
    return rows, len(rows)


def numeric(schema: pa.Schema) -> list[bool]:
    """Which columns hold numbers."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return [any(kind(field.type) for kind in kinds) for field in schema]


def _cell(column: Any, i: int) -> str:
    one = column.slice(i, 1)
    if one.null_count:
        return ""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        values = one.flatten()
        head = [_short(values, k) for k in range(min(len(values), _LIST))]
        more = f", … {len(values):,} values" if len(values) > _LIST else ""
        return _cut(f"[{', '.join(head)}{more}]")
    return _short(column, i)


def _short(column: Any, i: int) -> str:
    one = column.slice(i, 1)
    if one.nbytes > _MAX_VALUE:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return _cut(str(pa.compute.utf8_slice_codeunits(one, 0, MAX_CELL + 1)[0].as_py()))
        return f"(a value of {one.nbytes:,} bytes)"
    value = plain(one[0].as_py())
    if value is None:
        return ""
    return _cut(f"{value:.6g}" if isinstance(value, float) else str(value))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]} …"
