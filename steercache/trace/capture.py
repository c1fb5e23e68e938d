"""One forward pass with nnsight, and what it hands out at every site. Nothing after the last site wanted is computed.

`vision_out` is what the vision tower hands to the connector, one tensor (pictures or tiles, patches, width) in the tower's own
order. `connector_out` is what block 0 gets at image tokens, NaN elsewhere: in every family that is the connector's output
after all packing, in Molmo2 with its mark's embedding added. Both have layer -1.

Sites of a block: `resid_pre` is its input, `resid_post` its output, `attn_out` and `mlp_out` what attention and MLP add to the
residual stream (in Gemma 2 and 3 that is the output of the norm after them). So, but for rounding,
resid_post = resid_pre + attn_out + mlp_out in every family. `head_out` is what the attention heads give, side by side, head
after head: the input of their output projection, behind a gate where the attention has one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import nnsight
import torch

from steercache.core.errors import UsageError
from steercache.core.layout import BLOCK_SITES, DType
from steercache.models.family import Family, find_module, find_part
from steercache.models.heads import head_projection, heads_of
from steercache.models.load import TORCH_DTYPES
from steercache.models.rope import any_length, forget_lengths, length_rule
from steercache.models.spec import LoadedModel
from steercache.models.streams import active_stream, hidden_of
from steercache.models.video_settings import video_marks
from steercache.trace.batches import PaddedBatch
from steercache.trace.transfer import Transfer, Transfers

_AS_COMPUTED: Final = ("resid_pre", "head_out", "attn_out", "mlp_out", "resid_post")
States = dict[str, list[torch.Tensor]]
Capture = Callable[[PaddedBatch], States]
Begin = Callable[[PaddedBatch], "Captured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """One value of a forward pass: what goes into a module, or comes out of it; of several residual streams, `stream`."""

    site: str
    layer: int
    envoy: Any = field(repr=False)
    is_input: bool = False
    stream: int | None = None


class Captured:
    """What one forward pass handed out; on a GPU its copies may still be under way.

    `shapes` are known at once, by site those of its layers' tensors.
    """

    def __init__(self, states: States, transfer: Transfer, is_shown: torch.Tensor) -> None:
        self._states, self._transfer, self._is_shown = states, transfer, is_shown
        self.shapes = {site: [value.shape for value in values] for site, values in states.items()}

    def settle(self) -> None:
        """Wait for the copies; the memory of what they copied is free then."""
        self._transfer.wait()

    def states(self) -> States:
        """Per site one tensor (b, t, d) per layer, on the CPU; waits for the copies."""
        self.settle()
        if "connector_out" not in self._states:
            return self._states
        shown = [value.where(self._is_shown, torch.nan) for value in self._states["connector_out"]]
        return self._states | {"connector_out": shown}


def capture(
    loaded: LoadedModel,
    batch: PaddedBatch,
    *,
    sites: Sequence[str],
    layers: Sequence[int],
    dtype: DType | None = None,
) -> States:
    """Run one batch; per site one tensor (b, t, d) per layer, on the CPU, in `dtype` or as the model computed it.

    Rows of padding hold whatever the model computed there. Raises as `make_capture`.
    """
    return make_capture(loaded, sites=sites, layers=layers, dtype=dtype)(batch)


def make_capture(
    loaded: LoadedModel, *, sites: Sequence[str], layers: Sequence[int], dtype: DType | None = None
) -> Capture:
    """A function that captures batch after batch: the model is wrapped once.

    Raises:
        UsageError: a site that the model does not have, or a layer.
    """
    begin = make_begin(loaded, sites=sites, layers=layers, dtype=dtype)
    return lambda batch: begin(batch).states()


def make_begin(
    loaded: LoadedModel,
    *,
    sites: Sequence[str],
    layers: Sequence[int],
    dtype: DType | None = None,
    transfers: Transfers | None = None,
) -> Begin:
    """The same, for who has something else to do until the values are on the host. Raises as `make_capture`."""
    transfers = transfers or Transfers()
    taps = plan_taps(loaded, sites=sites, layers=layers)
    root = envoy_of(loaded)
    torch_dtype = None if dtype is None else TORCH_DTYPES[dtype]

    def begin(batch: PaddedBatch) -> Captured:
        if "vision_out" in sites and {"pixel_values", "pixel_values_videos"} <= set(batch.pixels):
            raise UsageError(
                "the vision tower reads pictures and videos of a batch one after the other, and its rows are kept of one",
                hint="trace pictures and videos as two data sets, or leave the site vision_out out",
            )
        inputs = model_inputs(loaded, batch)
        transfer = transfers.begin(loaded.model.device)
        values = _trace(root, inputs, taps, partial(_to_host, transfer, torch_dtype))
        transfer.close()
        states: States = {site: [] for site in sites}
        for tap, value in zip(taps, values, strict=True):
            states[tap.site].append(value)
        shown_ids = torch.tensor(loaded.shown_ids, device=batch.input_ids.device)
        return Captured(states, transfer, torch.isin(batch.input_ids, shown_ids)[:, :, None])

    return begin


def envoy_of(loaded: LoadedModel) -> Any:
    """nnsight's view of the model, made once per loaded model."""
    if "root" not in loaded.envoys:
        loaded.envoys["root"] = nnsight.NNsight(loaded.model)
    return loaded.envoys["root"]


def sites_of(family: Family) -> tuple[str, ...]:
    """The sites that every block has: of a derived family, `attn_out` and `mlp_out` only where two parts make up each block.

    `head_out` is asked of each block itself (`models.heads`): in hybrid models some have heads and some do not.
    """
    parts = {"attn_out": family.attn_out, "mlp_out": family.mlp_out}
    of_pictures = ("connector_out", "vision_out") if family.connector else ()
    return tuple(site for site in BLOCK_SITES if parts.get(site, site) and site != "head_out") + of_pictures


def plan_taps(loaded: LoadedModel, *, sites: Sequence[str], layers: Sequence[int]) -> tuple[Tap, ...]:
    """What to read, in the order in which a forward pass reaches it (nnsight asks for that)."""
    family = loaded.family
    known = (*sites_of(family), "head_out")
    unknown = [site for site in sites if site not in known]
    if unknown or not sites:
        raise UsageError(f"no site {', '.join(unknown)!r} in this model", hint=f"sites: {', '.join(known)}")
    root = envoy_of(loaded)
    taps = []
    if "vision_out" in sites and family.connector:
        taps.append(Tap(site="vision_out", layer=-1, envoy=find_module(root, family.connector), is_input=True))
    blocks, stream = find_module(root, family.blocks), active_stream(family, loaded.config)
    if "connector_out" in sites:
        taps.append(Tap(site="connector_out", layer=-1, envoy=blocks[0], is_input=True, stream=stream))
    if set(sites) <= {"vision_out", "connector_out"}:
        return tuple(taps)
    beyond = [layer for layer in layers if not 0 <= layer < loaded.spec.n_layers]
    if beyond or not layers or list(layers) != sorted(set(layers)):
        raise UsageError(
            f"layers {list(layers)} are not ascending blocks of {loaded.spec.name}",
            hint=f"it has blocks 0 to {loaded.spec.n_layers - 1}",
        )
    heads = heads_of(loaded.config) if "head_out" in sites else None
    for layer in layers:
        block = blocks[layer]
        parts = {"attn_out": family.attn_out, "mlp_out": family.mlp_out}
        for site in _AS_COMPUTED:
            if site in sites:
                envoy = find_part(block, parts[site]) if site in parts else block
                if heads is not None and site == "head_out":
                    own = find_module(loaded.model, family.blocks)[layer]
                    envoy = find_module(block, head_projection(own, heads=heads, layer=layer))
                is_input, whole = site in ("resid_pre", "head_out"), stream if site.startswith("resid_") else None
                taps.append(Tap(site=site, layer=layer, envoy=envoy, is_input=is_input, stream=whole))
    return tuple(taps)


def model_inputs(loaded: LoadedModel, batch: PaddedBatch) -> dict[str, Any]:
    """What the forward is called with, on the model's device.

    The key / value cache stays as the model has it by default, on: without it keys and values lie otherwise in memory, other
    kernels run, and the last bits are not those of a plain forward or of `generate`'s first step (seen in GPT-2).

    Raises:
        UsageError: samples whose lengths the model's rotary scaling treats differently (`models.rope`), or pictures beside
            videos for a model that has one token for both.
    """
    rule = length_rule(loaded.bundle)
    if rule is not any_length and len(batch.lengths) > 1 and len({rule(n) for n in batch.lengths}) > 1:
        raise UsageError(
            f"samples of {min(batch.lengths)} and {max(batch.lengths)} tokens cannot share a batch: the model's rotary"
            " scaling depends on the longest",
            place=loaded.spec.name,
            hint="batches as `trace.batches.plan_batches` makes them with `models.rope.length_rule`",
        )
    if {"pixel_values", "pixel_values_videos"} <= set(batch.pixels) and video_marks(loaded.family, loaded.config):
        raise UsageError(
            "pictures and videos of one batch cannot be told apart: this model has one token for both",
            place=loaded.spec.name,
            hint="trace and ask pictures and videos as two data sets",
        )
    forget_lengths(loaded)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.extra, **batch.pixels}
    if batch.position_ids is not None and loaded.family.positions != "internal":
        inputs["position_ids"] = batch.position_ids + (loaded.family.positions == "one_based")
    device = loaded.model.device
    return {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}


@torch.inference_mode()
def _trace(
    root: Any, inputs: dict[str, Any], taps: Sequence[Tap], to_host: Callable[[Any, int | None], torch.Tensor]
) -> list[torch.Tensor]:
    with root.trace(**inputs) as tracer:
        values = nnsight.save([])
        for tap in taps:
            values.append(to_host(tap.envoy.input if tap.is_input else tap.envoy.output, tap.stream))
        tracer.stop()
    kept: list[torch.Tensor] = values
    return kept


def _to_host(transfer: Transfer, dtype: torch.dtype | None, value: Any, stream: int | None) -> torch.Tensor:
    """A module's value on the host. Attention modules return a tuple; blocks did in transformers 4."""
    return transfer.copy(hidden_of(value, stream).detach(), dtype)
