"""Which rows of a run an SAE is trained on, and which are held out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import DamagedError, NotFoundError, UsageError
from steercache.core.examples import TOKEN_KINDS
from steercache.queries.session import Session
from steercache.sae.row_order import Gather, RowIndex
from steercache.sae.tensors import as_float32

SITE: Final = "resid_post"  # what SAEs are trained on here
KINDS: Final = ("text", "image")
_BLOCK = 65_536

_ROWS = """
SELECT row_idx, min(sample_idx) AS sample_idx
FROM tokens
WHERE run_id = $run AND row_idx IS NOT NULL AND position > 0 AND kind IN (SELECT unnest($kinds))
GROUP BY row_idx
ORDER BY row_idx
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRows:
    """Row numbers of one layer of a run: `training`, and `held_out` from other samples; both ascending.

    `gather` reads them, `width` is the hidden size. `n_long` rows were left out for their norm, above `max_norm`.
    """

    gather: Gather
    width: int
    training: RowIndex
    held_out: RowIndex
    n_long: int = 0
    max_norm: float | None = None
    mean_norm: float = 1.0


def training_rows(
    session: Session,
    run_id: str,
    *,
    layer: int,
    kinds: Sequence[str] = KINDS,
    held_out: float,
    max_norm_ratio: float | None,
    seed: int,
) -> TrainingRows:
    """The rows of a layer's output without position 0 and without tokens of other `kinds`, by training and held-out samples.

    Raises:
        NotFoundError: the run does not have the layer, or no such rows. UsageError: every row would be held out.
        DamagedError: rows hold values that are not finite.
    """
    if not kinds or not set(kinds) <= set(TOKEN_KINDS):
        named = ", ".join(kinds) or "nothing"
        raise UsageError(f"kinds of tokens to train on: {named}", hint=f"some of {', '.join(TOKEN_KINDS)}")
    source = session.cache.source(run_id)
    source.gather(
        SITE, layer, np.empty(0, dtype=np.int64)
    )  # refuses a site or layer that was not kept, before any work
    table = session.sql(_ROWS, run=run_id, kinds=list(kinds)).to_arrow_table()
    rows, samples = (table[name].to_numpy().astype(np.int64) for name in ("row_idx", "sample_idx"))
    if not len(rows):
        raise NotFoundError(
            f"no rows of kind {' or '.join(kinds)} beyond position 0 were kept", place=source.document.name
        )

    def gather(wanted: RowIndex) -> npt.NDArray[Any]:
        return source.gather(SITE, layer, wanted)

    norms = row_norms(gather, rows, place=source.document.name)
    limit = None if max_norm_ratio is None else float(np.median(norms)) * max_norm_ratio
    short = np.full(len(rows), True) if limit is None else norms <= limit
    aside = _held_out_samples(samples, share=held_out, seed=seed)
    training = rows[short & ~aside]
    if not len(training):
        raise UsageError("no rows are left to train on", place=source.document.name, hint="hold out fewer samples")
    return TrainingRows(
        gather=gather,
        width=source.document.layout.site(SITE).width,
        training=training,
        held_out=rows[short & aside],
        n_long=int((~short).sum()),
        max_norm=limit,
        mean_norm=float(norms[short & ~aside].mean()),
    )


def blocks(gather: Gather, rows: RowIndex, *, size: int = _BLOCK) -> Iterator[Any]:
    """Rows in order, as float32 tensors of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield as_float32(gather(rows[start : start + size]))


def row_norms(gather: Gather, rows: RowIndex, *, place: str) -> npt.NDArray[np.float32]:
    """L2 norm of every row, (n,). Raises DamagedError where one is not finite."""
    norms: npt.NDArray[np.float32] = np.concatenate([block.norm(dim=-1).numpy() for block in blocks(gather, rows)])
    wrong = int((~np.isfinite(norms)).sum())
    if wrong:
        raise DamagedError(f"{wrong:,} rows hold values that are not finite", place=place)
    return norms


def _held_out_samples(samples: RowIndex, *, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows are of a held-out sample: a seeded draw of `share` of the samples, at least one where `share` is above 0."""
    known = np.unique(samples)
    n = min(len(known) - 1, max(1, round(share * len(known)))) if share > 0 else 0
    chosen = np.random.default_rng([seed, 0x5AE]).permutation(known)[:n]
    aside: npt.NDArray[np.bool_] = np.isin(samples, chosen)
    return aside
