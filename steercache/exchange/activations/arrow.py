"""Cached activations of SAELens: a `datasets` folder whose rows are sequences of one length.

SAELens 6.54 (sae_lens/cache_activations_runner.py): column `<hook name>` (context, width) as a list of lists, column
`token_ids` (context), Arrow stream files named in `state.json`. The values are the hook's, for example
`blocks.3.hook_resid_post`. The rows are in the order in which they were computed (a shuffle is not written).
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steercache.core.errors import DamagedError, NotFoundError, Problem, UsageError
from steercache.core.examples import IntArray
from steercache.exchange.activations.captured import Captured, CapturedSample, Requests, ids_of
from steercache.exchange.activations.tensor_files import stored_dtype

_HOOK = re.compile(r"(?:blocks|model\.layers|h|layers)\.([0-9]{1,4})(?:\.hook_(resid_post|resid_pre))?")
TOKEN_COLUMNS = ("token_ids", "input_ids", "tokens")


def read_sae_lens(folder: Path, requests: Requests) -> Captured:
    """A folder of SAELens' `CacheActivationsRunner`; a shuffle changes nothing, since every row has its token ids.

    Raises:
        NotFoundError: there are no Arrow files. UsageError: a hook whose values are no residual stream, or a cut context.
    """
    tables = arrow_tables(folder)
    _check_context(folder)
    hook, block, numbering = _hook_of(tables[0].column_names, folder)
    samples: list[CapturedSample] = []
    problems: list[Problem] = []
    for table in tables:
        ids = next((table.column(name) for name in TOKEN_COLUMNS if name in table.column_names), None)
        values = _rows(table.column(hook))
        for i in range(table.num_rows):
            key = f"row-{len(samples) + len(problems)}"
            try:
                given = requests[key].token_ids if key in requests else None
                token_ids = given if ids is None else ids_of(ids[i].values.to_numpy(zero_copy_only=False))
                samples.append(_sample(key, folder, token_ids, partial(values, i)))
            except ValueError as error:
                problems.append(Problem(loc=key, kind="unreadable", message=str(error)))
    return Captured(
        format="sae-lens",
        samples=tuple(samples),
        numbering=numbering,
        last="block",
        entries=(block,),
        problems=tuple(problems),
    )


def _sample(key: str, folder: Path, ids: IntArray | None, values: Callable[[], npt.NDArray[Any]]) -> CapturedSample:
    rows_td = values()
    return CapturedSample(
        key=key,
        place=f"{folder}: {key}",
        token_ids=ids,
        n_rows=rows_td.shape[0],
        n_entries=1,
        width=rows_td.shape[1],
        dtype=stored_dtype(rows_td.dtype),
        probe=rows_td[:1].tobytes()[:256] + rows_td[-1:].tobytes()[:256],
        read=lambda: values()[:, None, :],
    )


def _rows(column: pa.ChunkedArray) -> Callable[[int], npt.NDArray[Any]]:
    """The row `i` of a column of lists of lists, as (t, d) without a copy."""
    chunks = [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in column.chunks]
    ends = np.cumsum([len(chunk) for chunk in chunks])

    def row(i: int) -> npt.NDArray[Any]:
        at = int(np.searchsorted(ends, i, side="right"))
        lists = chunks[at][i - (int(ends[at - 1]) if at else 0)].values
        flat: npt.NDArray[Any] = lists.flatten().to_numpy(zero_copy_only=False)
        n = len(lists)
        if n == 0 or len(flat) % n or set(lists.value_lengths().to_pylist()) != {len(flat) // n}:
            raise ValueError("its rows are not all of one width")
        return flat.reshape(n, -1)

    return row


def _hook_of(names: list[str], folder: Path) -> tuple[str, int, Any]:
    """(column, number, how it is counted) of the activations."""
    columns = [name for name in names if name not in TOKEN_COLUMNS]
    if len(columns) != 1:
        raise UsageError(f"columns {', '.join(names)}: one with activations was expected", place=str(folder))
    found = _HOOK.fullmatch(columns[0])
    if found is None:
        raise UsageError(
            f"{columns[0]}: the cache takes in outputs of blocks (blocks.3.hook_resid_post) and their inputs",
            place=str(folder),
            hint="cache the activations of such a hook",
        )
    return columns[0], int(found[1]), "states" if found[2] == "resid_pre" else "blocks"


def _check_context(folder: Path) -> None:
    """Refuse rows whose positions were cut, where the runner's settings lie beside them."""
    path = folder / "cache_activations_runner_cfg.json"
    if path.is_file():
        cut = json.loads(path.read_bytes()).get("seqpos_slice") or [None]
        if any(part is not None for part in cut):
            raise UsageError(
                f"seqpos_slice {cut}: the first tokens of every sequence are left out, so positions cannot be told",
                place=str(path),
                hint="cache the activations without seqpos_slice",
            )


def id_lists(folder: Path) -> list[IntArray]:
    """The token ids of a prepared data set in `folder`; empty where there is none."""
    try:
        tables = arrow_tables(folder)
    except (NotFoundError, DamagedError):
        return []
    found: list[IntArray] = []
    for table in tables:
        name = next((n for n in ("input_ids", "token_ids") if n in table.column_names), None)
        if name is None:
            return []
        found += [ids_of(row.values.to_numpy(zero_copy_only=False)) for row in table.column(name)]
    return found


def arrow_tables(folder: Path) -> list[pa.Table]:
    """The Arrow stream files of a `datasets` folder, memory-mapped, in the order of `state.json`.

    Raises:
        NotFoundError: there are none. DamagedError: one cannot be read.
    """
    state = folder / "state.json"
    try:
        names = [part["filename"] for part in json.loads(state.read_bytes())["_data_files"]] if state.is_file() else []
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError("not the state of a data set", place=str(state)) from error
    paths = [folder / Path(name).name for name in names] or sorted(folder.glob("*.arrow"))
    if not paths:
        raise NotFoundError("no Arrow files", place=str(folder), hint="the folder that the data set was saved to")
    tables = []
    for path in paths:
        try:
            tables.append(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
        except (pa.ArrowException, OSError) as error:
            raise DamagedError(f"not an Arrow file, or cut: {error}", place=str(path)) from error
    return tables
