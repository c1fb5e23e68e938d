"""Read, replay, branch or recompute: predicted from what the parts of a forward pass cost on this machine, and chosen.

What the cache has is read. The rest is computed in the quickest way that is exact for it: a replay where only first tokens are
asked for and a run holds the rows, branches from one unsteered pass per batch, or a full forward per cell where that is
quicker or the model's blocks cannot be run alone.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

import torch

from steercache.answers.damage import neutral_samples
from steercache.answers.work import BatchWork, PendingWork
from steercache.cache.calibration import (
    MAX_AGE_S,
    correction,
    forget_outcomes,
    read_seconds_per_byte,
    record_costs,
    recorded_costs,
)
from steercache.cache.handle import CacheFolder
from steercache.cells.options import ModeRequest
from steercache.core.activity import announce
from steercache.core.durations import duration_text as duration_text
from steercache.core.errors import UsageError
from steercache.core.layout import ITEM_BYTES
from steercache.core.trials import Mode
from steercache.models.spec import LoadedModel, ModelSpec
from steercache.steering.costs import NAMES, ForwardCosts, key_for, key_of, measure_costs

MODES: Final[tuple[Mode, ...]] = get_args(Mode)
DOING: Final[Mapping[Mode, str]] = MappingProxyType(
    {"replay": "replaying", "branch": "branching", "full": "recomputing in full"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCosts:
    """A model's costs here and what a byte from the disk takes, with its blocks and the bytes of one layer's row. `factor` is
    what finished jobs say that predicted times have to be multiplied by, `key` the name under which they say it."""

    forward: ForwardCosts
    read_s_per_byte: float
    n_layers: int
    row_bytes: int
    factor: float = 1.0
    key: str = ""
    gradient_factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeChoice:
    """How answers are got, and why. `seconds` are predicted for every way that is open; one in `barred` cannot be taken, for
    the reason given. "read": nothing is left to compute."""

    mode: Mode | Literal["read"]
    reason: str
    forced: bool
    seconds: Mapping[str, float]
    barred: Mapping[str, str]
    n_to_compute: int
    n_cached: int


def costs_here(cache: CacheFolder, loaded: LoadedModel, *, again: bool = False) -> MachineCosts:
    """What this model costs on this machine: measured (a second or two), kept in `calibration.json`, and measured again after
    `calibration.MAX_AGE_S`."""
    known = None if again else known_costs(cache, loaded.spec, loaded.model.device)
    if known is not None:
        return known
    announce(f"timing forward passes of {loaded.spec.name}")
    measured, key = measure_costs(loaded, neutral_samples(loaded.bundle)), key_of(loaded)
    kept = record_costs(cache.paths, key, measured.as_dict())  # as they will be read, to predict the same
    forget_outcomes(cache.paths, key)
    forget_outcomes(cache.paths, gradients_key(key))
    return _machine(cache, loaded.spec, ForwardCosts(**kept), key, again=again)


def known_costs(cache: CacheFolder, spec: ModelSpec, device: torch.device) -> MachineCosts | None:
    """What was measured here of a model on a device, without loading it; None: nothing yet, or too long ago."""
    key = key_for(spec, device)
    found = recorded_costs(cache.paths, key, NAMES, max_age_s=MAX_AGE_S)
    return None if found is None else _machine(cache, spec, ForwardCosts(**found), key, again=False)


def _machine(cache: CacheFolder, spec: ModelSpec, forward: ForwardCosts, key: str, *, again: bool) -> MachineCosts:
    return MachineCosts(
        forward=forward,
        read_s_per_byte=read_seconds_per_byte(cache.paths, again=again),
        n_layers=spec.n_layers,
        row_bytes=spec.hidden_size * ITEM_BYTES[spec.dtype],
        factor=correction(cache.paths, key),
        key=key,
        gradient_factor=correction(cache.paths, gradients_key(key)),
    )


def gradients_key(key: str) -> str:
    """Under which name recorded gradients correct the costs under `key`: backward passes have ratios of their own."""
    return f"{key}/gradients"


def predict_seconds(costs: MachineCosts, work: PendingWork) -> dict[Mode, float]:
    """Seconds of the work in each execution mode, possible or not. Answers are counted at the length of
    those decoded before; without any, at the length of the right ones where these are options, else at the most."""
    ways = {"replay": _replay_s, "branch": _branch_s, "full": _full_s}
    return {mode: costs.factor * sum(ways[mode](costs, batch) for batch in work.batches) for mode in MODES}


def branches_s(costs: MachineCosts, batch: BatchWork) -> float:
    """One unsteered pass over a batch and the cells that branch from it."""
    return costs.factor * _branch_s(costs, batch)


def gradients_s(costs: MachineCosts, batch: BatchWork, n_options: int) -> float:
    """Recording gradients of a batch's margins: a forward pass, and for every option but one a backward pass, which takes about
    twice as long."""
    backward_s = 2 * _blocks_s(costs, costs.n_layers, batch.n_seq * batch.n_tokens)
    forward_s = _inputs_s(costs, batch) + _forward_s(costs, batch, head_row_s=costs.forward.head_row_s)
    return costs.gradient_factor * (forward_s + max(1, n_options - 1) * backward_s)


def choose_mode(
    work: PendingWork,
    seconds: Mapping[Mode, float],
    barred: Mapping[Mode, str],
    *,
    wanted: ModeRequest = "auto",
    begun: Mode | None = None,
) -> ModeChoice:
    """The quickest way that is not barred; or the one that is wanted; or, if it is open, the one that this work was begun in.

    Raises:
        UsageError: the one that is wanted is barred.
    """
    if wanted != "auto" and wanted in barred:
        raise UsageError(
            f"{DOING[wanted]} is not possible here: {barred[wanted]}",
            hint="mode auto takes the quickest exact one",
        )
    open_to = [mode for mode in MODES if mode not in barred]
    mode, because = min(open_to, key=lambda mode: seconds[mode]), ""
    if wanted != "auto":
        mode, because = wanted, " as asked for"
    elif begun in open_to:
        mode, because = begun, " as this sweep was begun" if begun != mode else ""
    done = work.n_to_compute == 0
    reason = (
        f"all {work.n_cached:,} answers are in the cache" if done else _reason(mode, work, seconds, barred, because)
    )
    return ModeChoice(
        mode="read" if done else mode,
        reason=reason,
        forced=wanted != "auto" and not done,
        seconds={str(m): float(f"{seconds[m]:.4g}") for m in open_to},
        barred={str(m): why for m, why in barred.items()},
        n_to_compute=work.n_to_compute,
        n_cached=work.n_cached,
    )


def _reason(
    mode: Mode, work: PendingWork, seconds: Mapping[Mode, float], barred: Mapping[Mode, str], because: str
) -> str:
    """One sentence: what is done, how long it should take, and what the other ways would take or why they are not open."""
    cached = f", {work.n_cached:,} are in the cache" if work.n_cached else ""
    answers = f"{work.n_to_compute:,} answers{cached}"
    others = [
        f"no {DOING[other]}: {barred[other]}"
        if other in barred
        else f"{DOING[other]} about {duration_text(seconds[other])}"
        for other in MODES
        if other != mode
    ]
    return "; ".join([f"{DOING[mode]}{because}: about {duration_text(seconds[mode])} for {answers}", *others])


def _blocks_s(costs: MachineCosts, n_blocks: int, n_tokens: int, *, n_calls: int = 1) -> float:
    return n_blocks * (n_calls * costs.forward.block_call_s + n_tokens * costs.forward.block_token_s)


def _forward_s(costs: MachineCosts, batch: BatchWork, *, head_row_s: float) -> float:
    """One forward of the whole model over a batch, tower included."""
    rows = batch.n_seq * (head_row_s + costs.forward.picture_s)
    return costs.forward.pass_s + _blocks_s(costs, costs.n_layers, batch.n_seq * batch.n_tokens) + rows


def _decode_s(costs: MachineCosts, batch: BatchWork, n_rows: int) -> float:
    if not n_rows:
        return 0.0
    return batch.n_steps * costs.forward.step_s + batch.n_row_steps * n_rows * costs.forward.step_row_s


def _branch_s(costs: MachineCosts, batch: BatchWork) -> float:
    """One unsteered pass, then only what each cell changes; cells are stacked, and decoded together."""
    head_s = batch.n_seq * costs.forward.head_row_s
    moving = still = 0
    pass_s = _forward_s(costs, batch, head_row_s=costs.forward.head_row_s)
    total = _inputs_s(costs, batch) + pass_s + head_s  # the head twice: compared with the model's own
    for kind, n in batch.cells:
        if kind.layer is None or not kind.moves:
            still = 1  # they all answer alike
            continue
        n_tokens = n * batch.n_seq * (batch.n_tokens - kind.start)
        total += _blocks_s(costs, costs.n_layers - 1 - kind.layer, n_tokens) + n * head_s
        moving += n
    return total + _decode_s(costs, batch, moving * batch.n_seq) + _decode_s(costs, batch, still * batch.n_seq)


def _full_s(costs: MachineCosts, batch: BatchWork) -> float:
    pass_s = _forward_s(costs, batch, head_row_s=costs.forward.full_head_row_s)
    each = pass_s + _decode_s(costs, batch, batch.n_seq)
    return _inputs_s(costs, batch) + _idle_s(costs, batch) + batch.n_cells * each


def _inputs_s(costs: MachineCosts, batch: BatchWork) -> float:
    """Pictures are decoded once a batch, whatever is computed of them; a replay reads rows and needs none."""
    return batch.n_seq * costs.forward.input_s


def _idle_s(costs: MachineCosts, batch: BatchWork) -> float:
    """A pass that only makes masks and positions: its logits are made twice, to see whether the head is all there is."""
    return 2 * batch.n_seq * costs.forward.head_row_s


def _replay_s(costs: MachineCosts, batch: BatchWork) -> float:
    """Rows of each layer from disk, then the blocks above; cells of a layer share what precedes their tokens if that pays."""
    n_tokens, head_s = batch.n_seq * batch.n_tokens, batch.n_seq * costs.forward.head_row_s
    total = _idle_s(costs, batch)
    lowest = min((kind.layer for kind, _ in batch.cells if kind.layer is not None), default=costs.n_layers - 1)
    layers: dict[int, list[tuple[int, int]]] = {}
    for kind, n in batch.cells:
        layers.setdefault(lowest if kind.layer is None else kind.layer, []).append((kind.start, n))
    for layer, cells in layers.items():
        above = costs.n_layers - 1 - layer
        shares = sum(start * n for start, n in cells) > batch.n_tokens
        total += n_tokens * costs.row_bytes * costs.read_s_per_byte
        total += _blocks_s(costs, above, n_tokens) if shares else 0.0
        stacks: Counter[int] = Counter()
        for start, n in cells:
            stacks[start if shares else 0] += n
        for first, n in stacks.items():
            total += _blocks_s(costs, above, n * batch.n_seq * (batch.n_tokens - first)) + n * head_s
    return total
