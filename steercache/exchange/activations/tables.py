"""Rows of a selection with their tokens, batch by batch: memory holds one batch, however many rows and layers there are."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steercache.core.errors import UsageError
from steercache.core.ids import canonical_json
from steercache.core.selection import Selection
from steercache.queries.session import Session

BATCH_BYTES: Final = 32 * 2**20
_TOKENS = """
SELECT p.row_idx, any_value(t.piece) AS piece, any_value(t.kind) AS kind, any_value(s.sample_id) AS sample_id,
    any_value(s.dataset) AS dataset
FROM picked p
JOIN tokens t ON t.run_id = $run AND t.row_idx = p.row_idx AND t.sample_idx = p.sample_idx
JOIN samples s ON s.run_id = $run AND s.sample_idx = t.sample_idx
GROUP BY p.row_idx
ORDER BY p.row_idx
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """Which layers of a selection are written; `n_rows` rows of `width` values each."""

    session: Session = field(repr=False)
    selection: Selection = field(repr=False)
    layers: tuple[int, ...]
    width: int
    stored: np.dtype[Any]

    @property
    def n_rows(self) -> int:
        """Rows of the selection."""
        return len(self.selection)

    def column(self, layer: int) -> str:
        """The name of a layer's values."""
        return f"{self.selection.site}_{layer}"

    def provenance(self) -> dict[str, Any]:
        """Where the rows come from, as JSON."""
        sel = self.selection
        model = sel.fitted_on
        return {
            "format": "steercache-activations 1",
            "run_id": sel.run_id,
            "site": sel.site,
            "layers": list(self.layers),
            "dtype": self.stored.name,
            "lossy": sel.source.lossy,
            "model": None if model is None else {"name": model.name, "fingerprint": model.fingerprint},
            "query": {"name": sel.query.name, "bindings": json.loads(canonical_json(dict(sel.query.bindings)))},
        }


def requested(session: Session, selection: Selection, layers: Sequence[int] | None) -> ExportRequest:
    """What is to be written of a selection. Raises UsageError for no rows or a layer that the run did not keep."""
    if not len(selection):
        raise UsageError("the selection has no rows", hint="a query that picks some")
    there = selection.layers
    chosen = there if layers is None else tuple(sorted({*layers}))
    if unknown := [layer for layer in chosen if layer not in there]:
        raise UsageError(
            f"layers {', '.join(map(str, unknown))} are not in the run", hint=f"it has {', '.join(map(str, there))}"
        )
    row = selection.gather(chosen[0], part=slice(0, 1), dtype="stored")
    return ExportRequest(session=session, selection=selection, layers=chosen, width=row.shape[1], stored=row.dtype)


def parts_of(request: ExportRequest, *, n_layers: int | None = None) -> Iterator[slice]:
    """Consecutive rows that fit into a batch, of all layers or of `n_layers`."""
    row_bytes = (len(request.layers) if n_layers is None else n_layers) * request.width * 4
    step = max(BATCH_BYTES // row_bytes, 1)
    for first in range(0, request.n_rows, step):
        yield slice(first, min(first + step, request.n_rows))


def tokens_of(request: ExportRequest, part: slice) -> pa.Table:
    """Where some of the rows come from, one line a row."""
    sel = request.selection
    rows, sample_idx = sel.rows[part], sel.sample_idx[part]
    picked = pa.table({"row_idx": rows, "sample_idx": sample_idx.astype(np.int32)})
    found: Any = request.session.sql(_TOKENS, tables={"picked": picked}, run=sel.run_id).to_arrow_table()
    if found.num_rows != len(rows):
        raise UsageError(f"{len(rows) - found.num_rows} rows of the selection have no token", place=sel.run_id)
    columns: dict[str, Any] = {
        "row_idx": rows,
        "sample_idx": sample_idx.astype(np.int32),
        "position": sel.position[part],
        "token_id": sel.token_id[part],
        **{name: found[name].combine_chunks() for name in ("piece", "kind", "sample_id", "dataset")},
    }
    optional = {"label": sel.label, "pair": sel.pair, "weight": sel.weight}
    return pa.table(columns | {name: values[part] for name, values in optional.items() if values is not None})


def batches_of(request: ExportRequest) -> Iterator[pa.RecordBatch]:
    """Tokens and values of every layer, as record batches; values are float32, which holds every stored value exactly."""
    schema = schema_of(request)
    for part in parts_of(request):
        tokens = tokens_of(request, part)
        layers = [vectors(request.selection.gather(layer, part=part)) for layer in request.layers]
        columns = [*(tokens[name].combine_chunks() for name in tokens.column_names), *layers]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def schema_of(request: ExportRequest) -> pa.Schema:
    """The columns of an export, with its provenance."""
    tokens = tokens_of(request, slice(0, 1)).schema
    values = pa.list_(pa.float32(), request.width)
    fields = [*tokens, *(pa.field(request.column(layer), values, nullable=False) for layer in request.layers)]
    return pa.schema(fields, metadata={"steercache": canonical_json(request.provenance()).decode()})


def vectors(values_nd: npt.NDArray[np.float32]) -> pa.Array:
    """Rows (n, d) as fixed-size lists, without a copy."""
    flat = pa.array(np.ascontiguousarray(values_nd).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values_nd.shape[1])
