"""Captured values against our own trace of the same tokens: which layer an entry is, and how far off it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.errors import UsageError
from steercache.exchange.activations.captured import CapturedSample
from steercache.exchange.activations.entries import EMBEDDING, EntryMap
from steercache.exchange.activations.inputs import PairedSample
from steercache.models.family import find_module
from steercache.models.spec import LoadedModel
from steercache.trace.batches import pad_batch
from steercache.trace.capture import Capture, make_capture

MOST_RELATIVE = 0.25
"""Largest difference, as a share of the rows' norm, at which captured rows still count as those of a layer: two engines in
bfloat16 differ by some per cent, neighbouring layers and other weights by far more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEntry:
    """How one entry stands to the model: `what` it is by its values, its largest difference, and the median over rows of the
    difference's norm as a share of the row's; `runner_up` is that share for the next best layer."""

    entry: int
    what: str
    largest: float
    relative: float
    runner_up: float


def verify_entries(
    loaded: LoadedModel, paired: Sequence[PairedSample], n: int, *, declared: Sequence[EntryMap], place: str
) -> tuple[EntryMap, tuple[VerifiedEntry, ...]]:
    """Trace `n` of the samples, evenly spread, and compare every entry with every layer.

    Returns the map of the entries as the values say, which has to be one of `declared` where there are any, and how each
    entry compares.

    Raises:
        UsageError: an entry is like no layer of the model, or like another one than declared.
    """
    chosen = [paired[i] for i in np.unique(np.linspace(0, len(paired) - 1, min(n, len(paired))).astype(int))]
    if loaded.family.modality == "image" and any(one.input.encoded.pixels is None for one in chosen):
        raise UsageError(
            f"{loaded.spec.name} reads pictures, which the samples do not have: nothing can be recomputed",
            place=place,
            hint="import together with the trace's manifest, whose data set has the pictures",
        )
    every = make_capture(loaded, sites=("resid_pre", "resid_post"), layers=range(loaded.spec.n_layers), dtype="float32")
    shares: list[npt.NDArray[np.float64]] = []  # per sample (entry, candidate)
    largest: list[npt.NDArray[np.float64]] = []
    for one in chosen:
        share, most = _compare(one.captured, _references(loaded, every, one))
        shares.append(share)
        largest.append(most)
    share_ec, largest_ec = np.median(shares, axis=0), np.max(largest, axis=0)
    names = [EMBEDDING, *range(loaded.spec.n_layers), "norm"]
    found = [_judge(e, share_ec[e], largest_ec[e], names, place=place) for e in range(len(share_ec))]
    seen = _map_of([names[int(share_ec[e].argmin())] for e in range(len(share_ec))], place=place)
    if declared and seen not in declared:
        said, values = declared[0].named(), seen.named()
        wrong = [
            f"entry {e} is declared as the {said[e]}, by its values it is the {values[e]}"
            for e in said
            if said[e] != values[e]
        ]
        raise UsageError(
            "; ".join(wrong),
            place=place,
            hint="declare the entries as their values say, or leave the declaration out: then the values decide",
        )
    return seen, tuple(found)


def _references(loaded: LoadedModel, every: Capture, one: PairedSample) -> list[npt.NDArray[np.float32]]:
    """The embedding, the output of every block, and what the final norm makes of the last, each (t, d)."""
    states = every(pad_batch([one.input.encoded], padding_side="right", pad_id=loaded.pad_id))
    last = states["resid_post"][-1]
    norm = find_module(loaded.model, loaded.family.final_norm)
    with torch.inference_mode():
        weight = next(norm.parameters())
        normed = norm(last.to(device=weight.device, dtype=weight.dtype)).float().cpu()
    return [t[0].numpy() for t in (states["resid_pre"][0], *states["resid_post"], normed)]


def _compare(
    sample: CapturedSample, references: Sequence[npt.NDArray[np.float32]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(median share, largest difference), each (entry, candidate). Position 0 is left out: its massive activation is alike in
    many layers."""
    values_ted = sample.read()
    first = 1 if values_ted.shape[0] > 1 else 0
    share = np.empty((values_ted.shape[1], len(references)))
    most = np.empty_like(share)
    for e in range(values_ted.shape[1]):
        rows_td = values_ted[first:, e].astype(np.float32)
        for c, reference in enumerate(references):
            off = np.abs(rows_td - reference[first:])
            norms = np.linalg.norm(reference[first:], axis=1)
            share[e, c] = np.median(np.linalg.norm(off, axis=1) / np.maximum(norms, 1e-12))
            most[e, c] = off.max()
    return share, most


def _judge(
    entry: int,
    share_c: npt.NDArray[np.float64],
    largest_c: npt.NDArray[np.float64],
    names: Sequence[Any],
    *,
    place: str,
) -> VerifiedEntry:
    best, second = np.argsort(share_c, kind="stable")[:2]
    if not share_c[best] <= MOST_RELATIVE:
        raise UsageError(
            f"entry {entry} is like no layer of the model: the nearest, the {_words(names[best])}, differs by "
            f"{share_c[best]:.0%} of its norm",
            place=place,
            hint="name the model whose activations these are, with the same weights",
        )
    return VerifiedEntry(
        entry=entry,
        what=_words(names[best]),
        largest=float(largest_c[best]),
        relative=float(share_c[best]),
        runner_up=float(share_c[second]),
    )


def _words(name: Any) -> str:
    return {EMBEDDING: "embedding", "norm": "final norm"}.get(name) or f"output of block {name}"


def _map_of(kinds: Sequence[Any], *, place: str) -> EntryMap:
    if len(set(kinds)) < len(kinds):
        raise UsageError("two entries are the same layer by their values", place=place)
    blocks = sorted((kind, e) for e, kind in enumerate(kinds) if isinstance(kind, int) and kind != EMBEDDING)
    at = {kind: e for e, kind in enumerate(kinds)}
    return EntryMap(
        layers=tuple(layer for layer, _ in blocks),
        positions=tuple(e for _, e in blocks),
        embedding=at.get(EMBEDDING),
        norm=at.get("norm"),
    )
