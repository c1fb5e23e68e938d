"""Rows of a data set on the Hugging Face hub, or in its local cache, in the shape of a Parquet file's rows."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from steercache.core.errors import ManifestError, MissingExtraError, NotFoundError
from steercache.data.benchmarks.columns import PICTURE, PICTURES, check_columns
from steercache.data.benchmarks.tables import TableRow, stored_pictures
from steercache.data.hub_folder import check_hub_id


def hub_rows(
    hub_id: str,
    *,
    config: str | None,
    split: str,
    wanted: Mapping[str, str],
    optional: Sequence[str] = (),
    limit: int | None = None,
) -> Iterator[TableRow]:
    """Rows of a data set on the hub (or in the hub's local cache), pictures left undecoded.

    Raises:
        MissingExtraError: `datasets` is not installed; NotFoundError: the hub does not answer or has no such set.
    """
    table, schema = _load_hub(hub_id, config, split)
    check_columns(schema, wanted, place=hub_id)
    images = [name for name, kind in wanted.items() if kind in (PICTURE, PICTURES)]
    names = [*wanted, *(name for name in optional if name in schema.names)]
    n_rows = len(table) if limit is None else min(limit, len(table))
    rows = table.select_columns(names)
    for idx in range(n_rows):
        row = dict(rows[idx])
        place = f"{hub_id}/{split}:{idx + 1}"
        stored = {
            name: stored_pictures(row.pop(name), place, None, partial(_read, table, idx, name)) for name in images
        }
        yield TableRow(place=place, labels=row, pictures=stored)


def _read(table: Any, idx: int, column: str, position: int) -> bytes:
    value = table.select_columns([column])[idx][column]
    cell = value[position] if isinstance(value, list) else value
    data: bytes = cell["bytes"]
    return data


def _load_hub(hub_id: str, config: str | None, split: str) -> tuple[Any, pa.Schema]:
    try:
        import datasets
    except ImportError as err:
        raise MissingExtraError("sets on the hub need `datasets`", hint="pip install 'steercache[data]'") from err
    try:
        check_hub_id(datasets, hub_id, config=config)
        table = datasets.load_dataset(hub_id, config, split=split)
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(name, datasets.Image(decode=False))
            elif isinstance(getattr(feature, "feature", None), datasets.Image):
                table = table.cast_column(name, datasets.List(datasets.Image(decode=False)))
    except ManifestError:
        raise
    except (
        Exception
    ) as err:  # `datasets` raises its own, requests', pyarrow's and OS errors for one cause: not to be had
        raise NotFoundError(
            f"the set cannot be loaded from the hub: {err}",
            place=hub_id,
            hint="download it and give its folder instead, or check the network",
        ) from err
    return table, table.features.arrow_schema
