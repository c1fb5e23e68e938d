"""Files of answers as tables: read, and put together so that no answer is there twice."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steercache.core.errors import DamagedError
from steercache.index.io_errors import refused_by_system
from steercache.index.schemas import ANSWERS, check_parquet

KEY: Final = ("cell_id", "sample_id")


def read_answers(path: Path) -> pa.Table:
    """The answers of one file with every column of today; those that were added later are null in older files.

    Raises:
        DamagedError: the file is missing or not what it should be.
    """
    check_parquet(path, ANSWERS)
    try:
        table = pq.read_table(path.absolute())
    except (pa.ArrowException, OSError) as error:
        if (refused := refused_by_system(error, path)) is not None:
            raise refused from error
        raise DamagedError(
            f"answers that cannot be read: {error}", place=str(path), hint="restore the file from a copy, or remove it"
        ) from error
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in ANSWERS
    ]
    return pa.table(columns, schema=ANSWERS)


def without(table: pa.Table, other: pa.Table) -> pa.Table:
    """Rows of `table` whose cell and sample are in no row of `other`."""
    if not table.num_rows or not other.num_rows:
        return table
    return table.join(other.select(KEY), list(KEY), join_type="left anti").select(ANSWERS.names).cast(ANSWERS)


def without_cells(table: pa.Table, cell_ids: Iterable[str]) -> pa.Table:
    """Rows of `table` that are of none of these cells."""
    return table.filter(pc.invert(pc.is_in(table["cell_id"], value_set=pa.array(sorted({*cell_ids}), pa.string()))))


def merged(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of all tables by cell and sample, each once; of equal ones that of the last table."""
    whole = ANSWERS.empty_table()
    for table in reversed(tables):
        whole = pa.concat_tables([whole, without(table, whole)])
    return whole.sort_by([(name, "ascending") for name in KEY]).combine_chunks()
