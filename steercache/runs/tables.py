"""A shard's tokens and samples as tables, and its coordinates, in slot order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steercache.cache.commit import ShardTables
from steercache.core.examples import TOKEN_KINDS, EncodedSample
from steercache.index.schemas import GRADIENT_COLUMNS, SAMPLES, TOKENS
from steercache.runs.inputs import InputSample
from steercache.runs.rows import TokenPool
from steercache.runs.sharing import SharedRows

ROWS = pa.schema(
    [field for field in TOKENS if field.name not in GRADIENT_COLUMNS]
)  # what a run of tokens or means writes


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlace:
    """Where a sample sat when it was computed: what a replay needs to build the same batch again."""

    batch_no: int
    slot: int
    padded_len: int


def shard_tables(
    samples: Sequence[InputSample],
    kept: Sequence[npt.NDArray[np.int64]],
    places: Sequence[BatchPlace | None],
    *,
    first_row: int,
    tokenizer: Any,
    shared: Sequence[SharedRows] | None = None,
    pools: Sequence[tuple[TokenPool, ...]] = (),
) -> ShardTables:
    """Tables of one shard whose first slot is row `first_row` of the run; `kept` are the positions whose rows each sample
    keeps itself, `shared` what it takes from an earlier one, `pools` the means it keeps instead."""
    units = [s.units for s in samples]
    lengths = np.array([u.n_tokens for u in units])
    sample_idx = np.repeat(np.array([s.sample_idx for s in samples], dtype=np.int64), lengths)
    position = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    token_id = _joined([u.input_ids for u in units])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    kept_flat = np.concatenate([start + positions for start, positions in zip(starts, kept, strict=True)]).astype(
        np.int64
    )
    row_idx = np.full(len(position), -1, dtype=np.int64)
    row_idx[kept_flat] = first_row + np.arange(len(kept_flat))
    for start, part in zip(starts, shared or (), strict=shared is not None):
        row_idx[start + part.positions] = row_idx[starts[part.owner] + part.positions]
    tokens = _table(
        {
            "sample_idx": sample_idx,
            "position": position,
            "row_idx": pa.array(row_idx, mask=row_idx < 0),
            "token_id": token_id,
            "piece": pieces(token_id, tokenizer),
            "char_start": _joined([u.char_start for u in units]),
            "char_end": _joined([u.char_end for u in units]),
            "kind": _kinds(_joined([u.kind for u in units])),
            "tile": _joined([u.tile for u in units]),
            "patch_row": _joined([u.patch_row for u in units]),
            "patch_col": _joined([u.patch_col for u in units]),
            "frame": _joined([u.frames for u in units]),
            "time_ms": _joined([u.times_ms for u in units]),
            "token_type": _token_types(units),
        },
        ROWS,
    )
    if any(pools):
        means = _pooled(samples, pools, first_row=first_row)
        return ShardTables(
            sample_idx=means["sample_idx"].to_numpy(),
            position=means["position"].to_numpy(),
            token_id=means["token_id"].to_numpy(),
            tokens=pa.concat_tables([tokens, means]),
            samples=samples_table(samples, places),
        )
    return ShardTables(
        sample_idx=sample_idx[kept_flat].astype(np.int32),
        position=position[kept_flat],
        token_id=token_id[kept_flat].astype(np.int32),
        tokens=tokens,
        samples=samples_table(samples, places),
    )


def _pooled(samples: Sequence[InputSample], pools: Sequence[tuple[TokenPool, ...]], *, first_row: int) -> pa.Table:
    """The means of a shard as rows of `tokens`, in slot order: of a kind, at no position."""
    sample_idx = np.repeat([s.sample_idx for s in samples], [len(p) for p in pools])
    nowhere = np.full(len(sample_idx), -1)
    columns = {
        "sample_idx": sample_idx,
        "row_idx": first_row + np.arange(len(sample_idx)),
        "kind": _kinds(np.array([pool.kind for part in pools for pool in part])),
        "piece": pa.nulls(len(sample_idx)),
        "token_type": pa.nulls(len(sample_idx)),
    }
    return _table({name: columns.get(name, nowhere) for name in ROWS.names}, ROWS)


def _token_types(units: Sequence[EncodedSample]) -> pa.Array:
    """What the model reads per token beside the id, of which no family has more than one kind; NULL where it reads none."""
    parts = [next(iter(u.extra.values()), None) for u in units]
    known = np.concatenate([np.full(u.n_tokens, part is not None) for u, part in zip(units, parts, strict=True)])
    values = [np.zeros(u.n_tokens, dtype=np.int32) if p is None else p for u, p in zip(units, parts, strict=True)]
    return pa.array(np.concatenate(values), mask=~known)


def samples_table(samples: Sequence[InputSample], places: Sequence[BatchPlace | None]) -> pa.Table:
    """The rows of `samples` of one shard; no place where a sample took part in no batch."""
    rows = [
        {
            "sample_idx": s.sample_idx,
            "ordinal": s.ordinal,
            "sample_id": s.encoded.sample_id,
            "dataset": s.dataset,
            "text": s.encoded.text,
            "image_digest": s.encoded.image_digests[0] if s.encoded.image_digests else None,
            "n_tokens": s.units.n_tokens,
            "batch_no": None if place is None else place.batch_no,
            "slot": None if place is None else place.slot,
            "padded_len": None if place is None else place.padded_len,
        }
        for s, place in zip(samples, places, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.table({f.name: pa.array(columns[f.name]).cast(f.type) for f in schema}, schema=schema)


def pieces(token_id: npt.NDArray[Any], tokenizer: Any) -> pa.Array:
    """Tokens as the tokenizer writes them; NULL for what is no token."""
    unique, inverse = np.unique(token_id, return_inverse=True)
    known = tokenizer.convert_ids_to_tokens(unique[unique >= 0].tolist())  # a patch has no id
    names = pa.array([None] * int((unique < 0).sum()) + known, type=pa.string())
    return names.take(pa.array(inverse))


def _kinds(kind: npt.NDArray[Any]) -> pa.Array:
    return pa.array(TOKEN_KINDS).take(pa.array(kind.astype(np.int32)))


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts)
