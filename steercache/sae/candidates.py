"""From selected rows to candidates: every row of a selection encoded, and a selection method applied, layer by layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from steercache.core.errors import DamagedError, UsageError
from steercache.core.features import FeatureActs
from steercache.core.saes import SaeSpec
from steercache.core.selection import Selection
from steercache.sae.selection import Candidate, LabelledActs
from steercache.sae.sparse_probe import SELECTIONS

if TYPE_CHECKING:
    import torch

ROWS_AT_ONCE: Final = 512


class Encodes(Protocol):
    """What is needed of an SAE here: `LoadedSae`, or a control in its place."""

    @property
    def spec(self) -> SaeSpec: ...

    @property
    def decoder(self) -> npt.NDArray[np.float32]:
        """Directions of the features in raw activations, shape (s, d)."""
        ...

    def encode(self, x: "torch.Tensor") -> "torch.Tensor":
        """Features (n, s) of rows (n, d)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerCandidates:
    """What a selection found at one layer: `candidates` in order of rank, and the decoder row (d,) of each."""

    layer: int
    spec: SaeSpec
    rows: LabelledActs = field(repr=False)
    candidates: tuple[Candidate, ...] = field(repr=False)
    decoder: Mapping[int, npt.NDArray[np.float32]] = field(repr=False)

    @property
    def picked(self) -> tuple[Candidate, ...]:
        """The candidates that the method picked, best first."""
        return tuple(c for c in self.candidates if c.picked)


def find_candidates(
    sel: Selection, saes: Iterable[Encodes], *, selection: str = "paper"
) -> tuple[LayerCandidates, ...]:
    """Apply a selection method to the rows of `sel` at every SAE's layer, ascending by layer.

    `saes` may be a generator: an SAE is not held once its layer is done.

    Raises:
        UsageError: no such method, two SAEs of one layer, an SAE of another site or width, rows without labels.
        DamagedError: selected rows that are not finite. MissingExtraError: what the method needs is not installed.
    """
    if selection not in SELECTIONS:
        raise UsageError(f"no selection named {selection!r}", hint=f"choose among: {', '.join(SELECTIONS)}")
    if sel.label is None or not np.isin(sel.label, (0, 1)).all():
        raise UsageError("an SAE fit needs rows with labels 1 (anchor) and 0 (control)", place=sel.query.name)
    found: dict[int, LayerCandidates] = {}
    for sae in saes:
        layer = check_layer(sel, sae.spec)
        if layer in found:
            raise UsageError(f"two SAEs of layer {layer}: {found[layer].spec.name!r} and {sae.spec.name!r}")
        rows = labelled_rows(sel, sae)
        candidates = SELECTIONS[selection](rows)
        decoder = {c.feature: sae.decoder[c.feature].copy() for c in candidates}
        found[layer] = LayerCandidates(layer=layer, spec=sae.spec, rows=rows, candidates=candidates, decoder=decoder)
    if not found:
        raise UsageError("no SAE was given", hint="name an SAE manifest or folder")
    return tuple(found[layer] for layer in sorted(found))


def check_layer(sel: Selection, spec: SaeSpec) -> int:
    """The layer of an SAE that reads rows of the selection. Raises UsageError for one that they cannot go into."""
    if spec.layer is None or spec.site != sel.site or spec.layer not in sel.layers:
        raise UsageError(
            f"the SAE {spec.name!r} is of {spec.site}, layer {spec.layer}; the rows are of {sel.site}, "
            f"layers {', '.join(map(str, sel.layers))}",
            place=f"run {sel.run_id}",
            hint="take the SAE of a layer that the run kept",
        )
    return spec.layer


def labelled_rows(sel: Selection, sae: Encodes) -> LabelledActs:
    """Features of a selection's rows at the SAE's layer, with the labels. Raises as `encode_rows`."""
    assert sel.label is not None
    assert sae.spec.layer is not None
    acts = encode_rows(sae, sel.gather(sae.spec.layer))
    return LabelledActs(acts=acts, is_anchor=sel.label.astype(bool), sentence=sel.sample_idx)


def encode_rows(sae: Encodes, rows_nd: npt.NDArray[np.float32], *, n: int = ROWS_AT_ONCE) -> FeatureActs:
    """Features of rows (n, d), `n` rows at a time.

    Raises:
        UsageError: rows of another width than the SAE's. DamagedError: rows that are not finite.
    """
    import torch

    if rows_nd.shape[1] != sae.spec.d_in:
        raise UsageError(f"rows of width {rows_nd.shape[1]} for the SAE {sae.spec.name!r} of width {sae.spec.d_in}")
    bad = int((~np.isfinite(rows_nd).all(axis=1)).sum())
    if bad:
        raise DamagedError(
            f"{bad} of {len(rows_nd)} selected rows hold infinities or NaN, so they have no features",
            hint="leave these rows out in the query",
        )
    parts = [
        FeatureActs.from_dense(sae.encode(torch.from_numpy(np.array(rows_nd[at : at + n]))).cpu().numpy())
        for at in range(0, len(rows_nd), n)
    ]
    return FeatureActs.concatenate(parts)


def candidate_columns(found: LayerCandidates, more: Mapping[int, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The candidates of a layer as columns, for a vector's provenance; `more` has further values by feature."""
    names = ("feature", "rank", "score", "n_sentences", "rate_anchor", "rate_control", "p", "q", "picked", "reason")
    columns: dict[str, list[Any]] = {name: [getattr(c, name) for c in found.candidates] for name in names}
    for name in dict.fromkeys(name for values in more.values() for name in values):
        before = columns.get(name) or [None] * len(found.candidates)
        columns[name] = [
            more.get(c.feature, {}).get(name, old) for c, old in zip(found.candidates, before, strict=True)
        ]
    return columns
