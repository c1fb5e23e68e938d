"""How far a language model moved when it became the text side of a multimodal one: the same tokens in two runs, by layer.

`queries/drift_rows.sql` pairs the rows, the arithmetic is done here, in float64. Cosines of a residual stream are high between
any two tokens, so every number is given beside that of unrelated pairs of tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steercache.core.errors import NotFoundError, UsageError
from steercache.core.selection import RowSource
from steercache.queries.session import Session

ROLES: Final = ("text", "anchor", "special", "template", "first")  # first: position 0, the attention sink
LOW: Final = 0.05
CHUNK: Final = 4096  # rows held at a time
Rows = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRow:
    """Tokens of one role at one layer, from the first run to the second.

    `cosine` is the mean over tokens, `cosine_low` its 5 % quantile, `unrelated` the mean cosine with another token of the role
    in the second run (None for a single token). `distance` is the mean of |b - a| / |a|, `norm_ratio` of |b| / |a|.
    """

    layer: int
    role: str
    n: int
    cosine: float
    cosine_low: float
    unrelated: float | None
    distance: float
    norm_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Two runs compared; `n_tokens` pairs of rows of `n_samples` samples of the second run."""

    run: str
    other: str
    model: str
    other_model: str
    site: str
    n_samples: int
    n_tokens: int
    rows: tuple[DriftRow, ...]


def measure_drift(
    session: Session,
    run: str,
    other: str,
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    text_only: bool = False,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Drift:
    """Compare the rows of two runs for the same tokens of the same inputs, at every layer that both kept.

    `text_only` compares inputs by their text tokens alone, so that the words beside a picture find those without one.

    Raises:
        NotFoundError: no such run, or the runs share no input; UsageError: other widths, or no layer in common.
    """
    run_id, other_id = session.cache.resolve_run(run), session.cache.resolve_run(other)
    documents = [session.cache.run_document(one) for one in (run_id, other_id)]
    widths = [d.model.hidden_size for d in documents]
    if widths[0] != widths[1]:
        raise UsageError(f"{documents[0].name} is {widths[0]} wide and {documents[1].name} {widths[1]}")
    sources = (session.cache.source(run_id), session.cache.source(other_id))
    chosen = _layers(sources, site, layers)
    pairs = session.query("drift_rows", run=run_id, other=other_id, text_only=text_only).to_arrow_table()
    if not len(pairs):
        hint = (
            "steercache query runs_overview"
            if text_only
            else "compare text only, where one run has pictures or a template"
        )
        raise NotFoundError("the two runs share no input with rows in both", hint=hint)
    role = np.array(pairs["role"].to_pylist())
    rows = [pairs[name].to_numpy().astype(np.int64) for name in ("row_idx", "other_row_idx")]
    found = []
    for at, layer in enumerate(chosen):
        for name in ROLES:
            mask = role == name
            if mask.any():
                found.append(_compare(sources, site, layer, name, rows[0][mask], rows[1][mask]))
        if progress is not None:
            progress("layers", at + 1, len(chosen))
    return Drift(
        run=documents[0].name,
        other=documents[1].name,
        model=documents[0].model.name,
        other_model=documents[1].model.name,
        site=site,
        n_samples=len(set(pairs["other_sample_idx"].to_pylist())),
        n_tokens=len(pairs),
        rows=tuple(found),
    )


def _layers(sources: tuple[RowSource, RowSource], site: str, wanted: Sequence[int] | None) -> tuple[int, ...]:
    shared = sorted(set(sources[0].layers(site)) & set(sources[1].layers(site)))
    missing = sorted(set(wanted or ()) - set(shared))
    if missing or not shared:
        lost = ", ".join(map(str, missing)) or "in common"
        raise UsageError(f"no layer {lost} at {site} in both runs", hint=f"both kept: {', '.join(map(str, shared))}")
    return tuple(shared if wanted is None else sorted(set(wanted)))


def _compare(
    sources: tuple[RowSource, RowSource], site: str, layer: int, role: str, rows: Rows, other_rows: Rows
) -> DriftRow:
    """One role at one layer. The unrelated token is the one half the list away: of another sentence where there are some."""
    far = np.roll(other_rows, -(len(rows) // 2))
    parts = []
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        a, b, c = (
            np.asarray(source.gather(site, layer, some[part]), dtype=np.float64)
            for source, some in zip((*sources, sources[1]), (rows, other_rows, far), strict=True)
        )
        lengths = _norm(a)
        parts.append(
            np.stack([_cosine(a, b), _cosine(a, c), _norm(b - a) / lengths, _norm(b) / lengths]),
        )
    cosine, unrelated, distance, ratio = np.concatenate(parts, axis=1)
    return DriftRow(
        layer=layer,
        role=role,
        n=len(rows),
        cosine=float(cosine.mean()),
        cosine_low=float(np.quantile(cosine, LOW)),
        unrelated=float(unrelated.mean()) if len(rows) > 1 else None,
        distance=float(distance.mean()),
        norm_ratio=float(ratio.mean()),
    )


def _norm(rows_nd: npt.NDArray[Any]) -> Float32Array:
    lengths: Float32Array = np.linalg.norm(rows_nd, axis=1)
    return lengths


def _cosine(a_nd: Float32Array, b_nd: Float32Array) -> Float32Array:
    """Cosine per row; 1 for two rows of zeros, 0 for one."""
    lengths = _norm(a_nd) * _norm(b_nd)
    dots = np.einsum("nd,nd->n", a_nd, b_nd)
    found: Float32Array = np.where(
        lengths > 0, dots / np.where(lengths > 0, lengths, 1.0), (_norm(a_nd) == _norm(b_nd)) * 1.0
    )
    return found
