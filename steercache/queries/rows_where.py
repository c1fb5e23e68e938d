"""Selected rows that a target keeps: a vector fitted on the tokens that it will be added to, by one text."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steercache.cache.handle import CacheFolder
from steercache.core.errors import QueryError
from steercache.core.examples import TOKEN_KINDS
from steercache.core.selection import RowIndex, Selection
from steercache.queries.token_clause import TokenClause, plan_tokens
from steercache.queries.token_table import TokenFacts

SITE: Final = "resid_post"  # of the activations that a condition looks at
_TOKENS: Final = """
SELECT t.sample_idx, t.row_idx, t.token_id, t.piece, t.char_start, t.char_end, t.kind::VARCHAR AS kind, t.tile, t.patch_row,
    t.patch_col, t.frame
FROM tokens t
WHERE t.run_id = $run AND t.position >= 0 AND t.sample_idx IN (SELECT unnest($samples::INTEGER[]))
ORDER BY t.sample_idx, t.position
"""
_SAMPLES: Final = """
SELECT sample_idx, sample_id, text, image_digest IS NOT NULL AS has_image
FROM samples
WHERE run_id = $run AND sample_idx IN (SELECT unnest($samples::INTEGER[]))
ORDER BY sample_idx
"""


class _Pieces:
    """The run's own spelling of its tokens, in a tokenizer's place."""

    def __init__(self, tokens: pa.Table) -> None:
        self._pieces = dict(zip(tokens["token_id"].to_pylist(), tokens["piece"].to_pylist(), strict=True))

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        """As a tokenizer's."""
        return [self._pieces[one] for one in ids]


def rows_where(cache: CacheFolder, sel: Selection, target: TokenClause) -> Selection:
    """The rows of a selection whose tokens the target selects, with its weights where it has some.

    Raises:
        QueryError: no row is left, a row is a mean over tokens, a weight is negative, or activations that it looks at were not
            kept; as `plan_tokens`.
    """
    if (sel.position < 0).any():
        raise QueryError("rows that are means over tokens meet no condition on tokens", place=str(target))
    values = {"run": sel.run_id, "samples": np.unique(sel.sample_idx).tolist()}
    with cache.connection() as con:
        tokens = con.sql(_TOKENS, params=values).to_arrow_table()
        samples = con.sql(_SAMPLES, params=values).to_arrow_table()
    row_idx = tokens["row_idx"].fill_null(-1).to_numpy()

    def rows_at(layer: int, at: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        rows = row_idx[at]
        if (rows < 0).any():
            raise QueryError(
                "the run did not keep the activations of every token that the target looks at", place=str(target)
            )
        order = np.unique(rows, return_inverse=True)
        return sel.source.gather(SITE, layer, order[0])[order[1]]

    weights = plan_tokens(target, list(_facts(tokens, samples)), tokenizer=_Pieces(tokens), rows_at=rows_at)
    found = np.concatenate(weights)[_places(tokens, sel)]
    keep = found != 0
    if not keep.any():
        raise QueryError(f"none of the {len(sel):,} selected rows is a token where the target holds", place=str(target))
    if (found < 0).any():
        raise QueryError("weights of rows are not negative", place=str(target))
    weight = sel.weight
    if target.weighted:
        weight = found if weight is None else weight * found
    parts: dict[str, Any] = {
        name: None if values is None else values[keep]
        for name, values in (
            ("rows", sel.rows),
            ("sample_idx", sel.sample_idx),
            ("position", sel.position),
            ("token_id", sel.token_id),
            ("label", sel.label),
            ("pair", sel.pair),
            ("weight", weight),
        )
    }
    words = sel.words
    kept_words = None if words is None else lambda: words()[keep]
    return replace(sel, **parts, words=kept_words, query=replace(sel.query, where=str(target)))


def _places(tokens: pa.Table, sel: Selection) -> RowIndex:
    """Where the selected rows stand among the tokens, which are whole samples one after another."""
    sample = tokens["sample_idx"].to_numpy()
    names, firsts = np.unique(sample, return_index=True)
    places: RowIndex = firsts[np.searchsorted(names, sel.sample_idx)] + sel.position
    return places


def _facts(tokens: pa.Table, samples: pa.Table) -> Iterator[TokenFacts]:
    sample = tokens["sample_idx"].to_numpy()
    starts = np.flatnonzero(np.diff(sample, prepend=-1))
    kinds = tokens["kind"].to_pylist()
    columns = {
        name: tokens[name].fill_null(-1).to_numpy().astype(np.int32)
        for name in ("token_id", "char_start", "char_end", "tile", "patch_row", "patch_col", "frame")
    }
    code = {kind: i for i, kind in enumerate(TOKEN_KINDS)}
    kind = np.array([code[one] for one in kinds], dtype=np.int8)
    for start, stop, row in zip(starts, [*starts[1:], len(sample)], samples.to_pylist(), strict=True):
        yield TokenFacts(
            kind=kind[start:stop],
            text=row["text"],
            sample_id=row["sample_id"],
            n_images=int(row["has_image"]),
            n_videos=len(np.unique(columns["tile"][start:stop][kind[start:stop] == code["video"]])),
            **{name: values[start:stop] for name, values in columns.items()},
        )
