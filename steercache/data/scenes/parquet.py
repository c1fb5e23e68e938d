"""A set as a Parquet file with exactly the columns and types of CV-Bench on the hub."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.errors import UsageError
from steercache.data.scenes.draw import SIDE
from steercache.data.scenes.examples import SceneExample, to_row

# What CV-Bench holds for pictures taken from other sets, empty here: boxes, where they came from, a target class and size.
SCHEMA = pa.schema(
    [
        ("idx", pa.int64()),
        ("type", pa.string()),
        ("task", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("prompt", pa.string()),
        ("filename", pa.string()),
        ("source", pa.string()),
        ("source_dataset", pa.string()),
        ("source_filename", pa.string()),
        ("target_class", pa.string()),
        ("target_size", pa.int64()),
        ("bbox", pa.list_(pa.list_(pa.float64()))),
    ]
)


def write_parquet(examples: Iterable[SceneExample], path: Path, *, side: int = SIDE, group_id: bool = False) -> int:
    """Writes the examples and returns how many; `group_id=True` adds the picture's id as a further column.

    Raises:
        UsageError: there is nothing to write.
    """
    schema = SCHEMA.append(pa.field("group_id", pa.string())) if group_id else SCHEMA
    rows = [{name: to_row(example, side=side).get(name) for name in schema.names} for example in examples]
    if not rows:
        raise UsageError("no examples to write", place=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=256)
    return len(rows)
