"""From selected rows to candidates: every row of a selection encoded, and a selection method applied, layer by layer."""

from collections.abc import Mapping, Sequence
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
    """What a selection found at one layer; `candidates` are in order of rank."""

    layer: int
    sae: Encodes = field(repr=False)
    rows: LabelledActs = field(repr=False)
    candidates: tuple[Candidate, ...] = field(repr=False)

    @property
    def picked(self) -> tuple[Candidate, ...]:
        """The candidates that the method picked, best first."""
        return tuple(c for c in self.candidates if c.picked)


def find_candidates(
    sel: Selection, saes: Sequence[Encodes], *, selection: str = "paper", layers: Sequence[int] | None = None
) -> tuple[LayerCandidates, ...]:
    """Apply a selection method to the rows of `sel` at every SAE's layer, ascending by layer.

    Raises:
        UsageError: no such method or layer, two SAEs of one layer, an SAE of another site or width, rows without labels.
        DamagedError: selected rows that are not finite. MissingExtraError: what the method needs is not installed.
    """
    if selection not in SELECTIONS:
        raise UsageError(f"no selection named {selection!r}", hint=f"choose among: {', '.join(SELECTIONS)}")
    if sel.label is None or not np.isin(sel.label, (0, 1)).all():
        raise UsageError("an SAE fit needs rows with labels 1 (anchor) and 0 (control)", place=sel.query.name)
    by_layer = saes_by_layer(sel, saes)
    wanted = sorted(by_layer) if layers is None else sorted(set(layers))
    unknown = [layer for layer in wanted if layer not in by_layer]
    if unknown or not wanted:
        raise UsageError(
            f"no SAE of layer {', '.join(map(str, unknown))}" if unknown else "no layers were asked for",
            hint=f"choose among: {', '.join(map(str, sorted(by_layer)))}",
        )
    return tuple(_at_layer(sel, by_layer[layer], layer, selection) for layer in wanted)


def saes_by_layer(sel: Selection, saes: Sequence[Encodes]) -> dict[int, Encodes]:
    """The SAEs by layer. Raises UsageError for one that the rows cannot go into."""
    found: dict[int, Encodes] = {}
    for sae in saes:
        spec = sae.spec
        if spec.layer is None or spec.site != sel.site or spec.layer not in sel.layers:
            raise UsageError(
                f"the SAE {spec.name!r} is of {spec.site}, layer {spec.layer}; the rows are of {sel.site}, "
                f"layers {', '.join(map(str, sel.layers))}",
                place=f"run {sel.run_id}",
                hint="take the SAE of a layer that the run kept",
            )
        if spec.layer in found:
            raise UsageError(f"two SAEs of layer {spec.layer}: {found[spec.layer].spec.name!r} and {spec.name!r}")
        found[spec.layer] = sae
    if not found:
        raise UsageError("no SAE was given", hint="name an SAE manifest or folder")
    return found


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


def _at_layer(sel: Selection, sae: Encodes, layer: int, selection: str) -> LayerCandidates:
    assert sel.label is not None
    acts = encode_rows(sae, sel.gather(layer))
    rows = LabelledActs(acts=acts, is_anchor=sel.label.astype(bool), sentence=sel.sample_idx)
    return LayerCandidates(layer=layer, sae=sae, rows=rows, candidates=SELECTIONS[selection](rows))
