"""What a derived row says of a model, shown on the model itself before anything is read from it or added to it.

Two prompts of arbitrary tokens run once alone, once padded in one batch, and once with a change at one row. What must hold:
blocks run in order, each once, and hand the residual stream (b, t, d) on unchanged; they are what the model itself calls its
hidden states; the last one's output goes through the final norm into the head; a change at one row reaches no earlier row (the
model is causal) and no other prompt; padding moves nothing but the last bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, Final

import torch

from steercache.core.errors import NotFoundError
from steercache.models.family import Evidence, Family, find_module

LENGTHS: Final = (11, 7)
CHANGED: Final = 4  # the row of the longer prompt that is changed
_ROUNDING: Final = 64.0  # in units of the dtype's precision, beside the largest value: what another batch may move
_SUM_ROUNDING: Final = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """What one forward pass handed around: inputs and outputs of blocks, of their direct parts, and of norm and head."""

    order: list[int] = field(default_factory=list)
    inputs: dict[int, torch.Tensor] = field(default_factory=dict)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    parts: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict)
    normed: list[torch.Tensor] = field(default_factory=list)
    at_head: list[torch.Tensor] = field(default_factory=list)
    own: list[torch.Tensor] = field(default_factory=list)
    tuples: list[bool] = field(default_factory=list)
    norm_input: list[torch.Tensor] = field(default_factory=list)


def prove(model: Any, family: Family) -> tuple[Family, tuple[Evidence, ...]]:
    """The row with the parts that attention and MLP add, as measured ("" where none do), and the evidence for the rest.

    Raises:
        NotFoundError: something does not hold; the message says what was seen.
    """
    evidence: list[Evidence] = []
    try:
        family = _examine(model, family, evidence)
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        evidence.append(
            Evidence("its forward pass runs on prompts of tokens", False, f"{type(error).__name__}: {first}")
        )
    failed = [one for one in evidence if not one.holds]
    if failed:
        seen = "; ".join(f"{one.claim}: no, {one.seen}" for one in failed)
        kind = str(model.config.get_text_config().model_type)
        named = repr(kind) if kind == family.name else f"{family.name!r} around {kind!r}"
        raise NotFoundError(
            f"models of type {named} are not in the table of families, and what was derived from the class does not"
            f" hold on this model. {seen}",
            hint="choose another model, or add a row to steercache/models/families.py",
        )
    return family, tuple(evidence)


@torch.inference_mode()
def _examine(model: Any, family: Family, evidence: list[Evidence]) -> Family:
    prompts = [_prompt(model, n, seed) for seed, n in enumerate(LENGTHS)]
    alone = [_run(model, family, [prompt]) for prompt in prompts]
    long = alone[0]
    n_layers = len(find_module(model, family.blocks))
    evidence.append(_in_order(long, n_layers))
    evidence.append(_finite(long))
    evidence.append(_one_stream(model, long, n_layers))
    if not all(one.holds for one in evidence):
        return family
    evidence.append(_hidden_states(long, n_layers))
    evidence.append(_norm_and_head(long, n_layers))
    evidence.append(_steered(model, family, prompts[0], long, n_layers))
    evidence += [_padded(model, family, prompts, alone, n_layers, side=side) for side in ("right", "left")]
    attn_out, mlp_out = _summands(model, family, long, n_layers)
    return replace(family, attn_out=attn_out, mlp_out=mlp_out, tuples=all(long.tuples))


def _prompt(model: Any, n_tokens: int, seed: int) -> torch.Tensor:
    """Token ids (1, n) from the middle of the vocabulary, where special tokens are seldom; none stands for a picture."""
    n_ids = int(model.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(
        n_ids // 4, max(n_ids // 4 + 1, n_ids * 3 // 4), (1, n_tokens), generator=generator, device="cpu"
    )
    image = getattr(model.config, "image_token_id", None)
    return ids if image is None else torch.where(ids == image, ids - 1, ids)


def _run(
    model: Any,
    family: Family,
    prompts: Sequence[torch.Tensor],
    *,
    side: str = "right",
    delta: Mapping[int, torch.Tensor] = {},
) -> _Pass:
    n_tokens = max(ids.shape[1] for ids in prompts)
    ids = torch.zeros(len(prompts), n_tokens, dtype=torch.long, device="cpu")
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        at = slice(0, prompt.shape[1]) if side == "right" else slice(n_tokens - prompt.shape[1], n_tokens)
        ids[i, at], mask[i, at] = prompt[0], 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    if family.positions == "from_mask":
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    seen = _Pass()
    with _watched(model, family, seen, delta):
        out = model(**{name: x.to(model.device) for name, x in inputs.items()}, output_hidden_states=True)
    seen.own.extend(out.hidden_states or ())
    return seen


@contextmanager
def _watched(model: Any, family: Family, seen: _Pass, delta: Mapping[int, torch.Tensor]) -> Iterator[None]:
    handles = []

    def watch_block(layer: int, block: Any) -> None:
        def before(module: Any, args: Any, kwargs: Any) -> None:
            seen.order.append(layer)
            seen.inputs[layer] = args[0] if args else kwargs["hidden_states"]

        def after(module: Any, args: Any, out: Any) -> Any:
            hidden = _first(out)
            seen.tuples.append(isinstance(out, tuple))
            if layer in delta:
                hidden = hidden + delta[layer].to(hidden)
                out = (hidden, *out[1:]) if isinstance(out, tuple) else hidden
            seen.outputs[layer] = hidden
            return out

        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(block.register_forward_hook(after))
        for name, part in block.named_children():
            handles.append(part.register_forward_hook(lambda m, a, out, key=(layer, name): _keep(seen.parts, key, out)))

    for layer, block in enumerate(find_module(model, family.blocks)):
        watch_block(layer, block)
    norm, head = find_module(model, family.final_norm), find_module(model, family.lm_head)
    handles.append(norm.register_forward_pre_hook(lambda m, args: seen.norm_input.append(args[0])))
    handles.append(norm.register_forward_hook(lambda m, args, out: seen.normed.append(out)))
    handles.append(head.register_forward_pre_hook(lambda m, args: seen.at_head.append(args[0])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def _keep(parts: dict[tuple[int, str], torch.Tensor], key: tuple[int, str], out: Any) -> None:
    if isinstance(_first(out), torch.Tensor):
        parts[key] = _first(out)


def _in_order(run: _Pass, n_layers: int) -> Evidence:
    return Evidence("blocks run in order, each once", run.order == list(range(n_layers)), f"order {run.order}")


def _finite(run: _Pass) -> Evidence:
    bad = [layer for layer, rows in run.outputs.items() if not bool(rows.isfinite().all())]
    return Evidence(
        "its hidden states are finite", not bad, f"NaN or infinity first behind block {min(bad, default=0)}"
    )


def _one_stream(model: Any, run: _Pass, n_layers: int) -> Evidence:
    wanted = (1, LENGTHS[0], int(model.config.get_text_config().hidden_size))
    shapes = {tuple(x.shape) for x in (*run.inputs.values(), *run.outputs.values()) if isinstance(x, torch.Tensor)}
    handed_on = [layer for layer in range(n_layers - 1) if not _same(run.outputs.get(layer), run.inputs.get(layer + 1))]
    holds = shapes == {wanted} and not handed_on
    seen = (
        f"shapes {sorted(shapes)} where {wanted} is meant"
        if shapes != {wanted}
        else f"changed after blocks {handed_on}"
    )
    return Evidence("a block gets what the one before handed out, one residual stream", holds, seen)


def _hidden_states(run: _Pass, n_layers: int) -> Evidence:
    """The model's own list begins with the embeddings, in Mamba with the first block's output; its last entry is often
    behind the final norm and is not compared."""
    claim = "blocks' outputs are the model's own hidden states"
    if not run.own:
        return Evidence(claim, True, "it lists none; blocks hand their outputs on unchanged")
    begins = {0: "the first block's output", 1: "the embeddings"}
    for offset, first in begins.items():
        at = dict(enumerate(run.own, start=-offset))
        if all(_same(at.get(layer), run.outputs[layer]) for layer in range(n_layers - 1)):
            return Evidence(claim, True, f"{len(run.own)} entries, the first is {first}")
    return Evidence(claim, False, f"{len(run.own)} entries of other values")


def _norm_and_head(run: _Pass, n_layers: int) -> Evidence:
    holds = bool(run.norm_input and run.normed and run.at_head)
    holds = holds and _same(run.norm_input[-1], run.outputs[n_layers - 1])
    holds = holds and run.at_head[-1].shape[-1] == run.normed[-1].shape[-1]
    return Evidence(
        "the last block's output goes through the final norm", holds, f"the norm ran {len(run.norm_input)} times"
    )


def _steered(model: Any, family: Family, prompt: torch.Tensor, plain: _Pass, n_layers: int) -> Evidence:
    """A change of one row at the middle block: that row alone there, later rows only in blocks above, none below."""
    layer = (n_layers - 1) // 2
    change = torch.zeros_like(plain.outputs[layer])
    ramp = torch.linspace(-1, 1, change.shape[-1], device=change.device)
    change[:, CHANGED] = 4 * plain.outputs[layer].abs().mean() * ramp
    run = _run(model, family, [prompt], delta={layer: change})
    touched = {one: _moved_rows(run.outputs[one][0], plain.outputs[one][0], 0.0) for one in range(n_layers)}
    rounded = {one: _moved_rows(run.outputs[one][0], plain.outputs[one][0], _ROUNDING) for one in range(n_layers)}
    below = [one for one in range(layer) if touched[one]]
    earlier = [one for one in range(layer, n_layers) if any(row < CHANGED for row in rounded[one])]
    lost = [one for one in range(layer, n_layers) if CHANGED not in touched[one]]
    holds = touched[layer] == [CHANGED] and not below and not earlier and not lost
    seen = f"rows moved per block {rounded}" if not holds else f"row {CHANGED} of block {layer}"
    return Evidence("a change of one row moves it and later ones only, in this block and above", holds, seen)


def _moved_rows(now: torch.Tensor, before: torch.Tensor, rounding: float) -> list[int]:
    """Rows that moved by more than `rounding` units of precision, beside the row's own largest value.

    Experts of a mixture compute their tokens together, so others' last bits move.
    """
    bound = rounding * torch.finfo(before.dtype).eps * before.abs().amax(-1)
    rows: list[int] = ((now - before).abs().amax(-1) > bound).nonzero()[:, 0].tolist()
    return rows


def _padded(
    model: Any, family: Family, prompts: Sequence[torch.Tensor], alone: Sequence[_Pass], n_layers: int, *, side: str
) -> Evidence:
    run = _run(model, family, prompts, side=side)
    worst = 0.0
    for i, (prompt, one) in enumerate(zip(prompts, alone, strict=True)):
        n = prompt.shape[1]
        at = slice(0, n) if side == "right" else slice(LENGTHS[0] - n, LENGTHS[0])
        for layer in range(n_layers):
            a, b = one.outputs[layer][0].double(), run.outputs[layer][i, at].double()
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)))
    eps = torch.finfo(alone[0].outputs[0].dtype).eps
    holds = worst <= _ROUNDING * eps * (1 + n_layers / 8)
    return Evidence(f"padding on the {side} moves the last bits at most", holds, f"{worst:.2g} of the largest value")


def _summands(model: Any, family: Family, run: _Pass, n_layers: int) -> tuple[str, str]:
    """Names of the direct parts of each block whose outputs its input and output differ by, alternatives joined by `|`.

    Named as the table does, attention (or what stands in its place) first; ("", "") where no two parts do in every block:
    parts in parallel, or scaled.
    """
    found: list[tuple[str, str]] = []
    for layer in range(n_layers):
        names = [name for at, name in run.parts if at == layer]
        before, after = run.inputs[layer].double(), run.outputs[layer].double()
        errors = {
            (a, b): float((before + run.parts[layer, a].double() + run.parts[layer, b].double() - after).norm())
            for a, b in permutations(names, 2)
            if names.index(a) < names.index(b)
            and run.parts[layer, a].shape == run.parts[layer, b].shape == before.shape
        }
        bound = _SUM_ROUNDING * torch.finfo(run.outputs[layer].dtype).eps * float(after.norm())
        passing = sorted((error, pair) for pair, error in errors.items() if error <= bound)
        if not passing:
            return "", ""
        pairs = [pair for _, pair in passing]
        proposed = (family.attn_out, family.mlp_out)
        found.append(proposed if proposed in pairs else pairs[0])
    return "|".join(dict.fromkeys(a for a, _ in found)), "|".join(dict.fromkeys(b for _, b in found))


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
