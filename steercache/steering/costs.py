"""Costs of a model's forward pass on this machine, part by part, measured once to estimate the time of grids.

Time in a part is affine in what it is given: a call costs something whatever it computes (launching, Python), a token costs the
same each. Several batch sizes give both, each run once before the clock counts (kernels are chosen, memory is fetched) and
timed as the quickest of several. Blocks, tower and head are timed where they run, in the model's own forward, by hooks.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any, Final

import torch

from steercache.cache.calibration import costs_key
from steercache.core.examples import EncodedSample
from steercache.models.family import find_module
from steercache.models.rope import length_rule
from steercache.models.spec import LoadedModel, ModelSpec
from steercache.steering.decode import decode_greedily
from steercache.steering.parts import parts_of
from steercache.steering.pool import start_of
from steercache.steering.prefill import Prefill, fresh_cache, read_prompts, run_prefill
from steercache.trace.batches import PaddedBatch, most_that_share, pad_batch

SIZES: Final = (1, 2, 4, 8)  # samples of a batch; as many sizes as are timed within the budget, two at least
BUDGET_S: Final = 3.0
SLOW_S: Final = 10.0  # a sample that takes longer is timed alone
N_STEPS: Final = 3  # tokens decoded
REPEATS: Final = 4  # the quickest counts: what is slower was disturbed
LEAST_REPEATS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardCosts:
    """Seconds: of calling one block at all, and of each token in it; of a token's logits; of a picture in tower and connector;
    of a step of decoding at all, and of each sequence in it; of a forward pass at all, outside these parts; of making one
    sample's inputs (a picture is decoded); of a token's logits as `generate` computes them, which a full forward does: on a CPU
    many times those of `head_row_s`, see `Prompts.logits_to_keep`."""

    block_call_s: float
    block_token_s: float
    head_row_s: float
    picture_s: float
    step_s: float
    step_row_s: float
    pass_s: float = 0.0
    input_s: float = 0.0
    full_head_row_s: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """By name, as they are kept."""
        return asdict(self)


NAMES: Final = frozenset(f.name for f in fields(ForwardCosts))


def key_of(loaded: LoadedModel) -> str:
    """Under which name the costs of this model, dtype, device and number of threads are kept."""
    return key_for(loaded.spec, loaded.model.device)


def key_for(spec: ModelSpec, device: torch.device) -> str:
    """The same for a model that would be loaded on `device`."""
    name = device.type if device.type != "cuda" else f"cuda {torch.cuda.get_device_name(device)}"
    return costs_key(spec.fingerprint, spec.dtype, device=name, threads=torch.get_num_threads())


def measure_costs(loaded: LoadedModel, samples: Sequence[EncodedSample]) -> ForwardCosts:
    """Time this model on `samples` (each with one picture, for a multimodal model), or those of them that may share a batch: a
    few seconds, more where one forward pass of one sample takes longer."""
    samples = most_that_share(samples, length_rule(loaded.bundle))
    one = _batch(loaded, samples[:1])
    _forward(loaded, one)  # slower than what follows: not timed
    sizes, repeats = timing_plan(_timed(loaded, lambda: _forward(loaded, one)), n_samples=len(samples))
    batches, input_s = [], []
    for n in sizes:
        started = time.perf_counter()
        batches.append(_batch(loaded, samples[:n]))
        input_s.append((time.perf_counter() - started) / n)
    parts = [_parts(loaded, batch, repeats) for batch in batches]
    n_blocks = len(parts_of(loaded).blocks)
    call_s, token_s = fit_line(
        [(batch.input_ids.numel(), part.blocks_s / n_blocks) for batch, part in zip(batches, parts, strict=True)]
    )
    ends = batches[:: max(1, len(batches) - 1)]  # smallest and largest
    step_s, row_s = _decoding(loaded, ends, repeats) or (n_blocks * call_s, n_blocks * token_s)
    return ForwardCosts(
        block_call_s=call_s,
        block_token_s=token_s,
        head_row_s=parts[-1].head_s / sizes[-1],
        picture_s=parts[-1].tower_s / sizes[-1],
        step_s=step_s,
        step_row_s=row_s,
        pass_s=median(part.rest_s for part in parts),
        input_s=min(input_s),
        full_head_row_s=_full_head_row_s(loaded, batches[min(1, len(batches) - 1)]),
    )


def timing_plan(warm_s: float, *, n_samples: int) -> tuple[tuple[int, ...], int]:
    """Batch sizes to time, and how often each, where one sample takes `warm_s` warm: what fits into the budget.

    >>> timing_plan(0.001, n_samples=8), timing_plan(0.2, n_samples=8), timing_plan(60.0, n_samples=8)
    (((1, 2, 4, 8), 4), ((1, 4), 2), ((1,), 2))
    """
    possible = tuple(n for n in SIZES if n <= max(1, n_samples))
    if warm_s > SLOW_S or len(possible) == 1:
        return possible[:1], REPEATS if warm_s <= SLOW_S else LEAST_REPEATS
    several = [possible[:n] for n in range(len(possible), 2, -1)]
    for sizes in (*several, *((1, n) for n in possible[:0:-1])):  # two sizes far apart tell more than two repeats
        for repeats in range(REPEATS, LEAST_REPEATS - 1, -1):
            if warm_s * sum(sizes) * (1 + repeats) <= BUDGET_S:
                return sizes, repeats
    return possible[:2], LEAST_REPEATS


def fit_line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Intercept and slope of seconds against size, neither below 0 (Siegel's repeated medians, Biometrika 1982, which one
    disturbed point of four does not move); of a single size all is slope.

    >>> fit_line([(1, 3.0), (2, 5.0), (4, 9.0), (8, 90.0)])
    (1.0, 2.0)
    """
    slopes = [
        median(_slope(one, other) for other in points if other[0] != one[0])
        for one in points
        if any(other[0] != one[0] for other in points)
    ]
    slope = max(0.0, _low_median(slopes)) if slopes else 0.0
    intercept = _low_median([seconds - slope * n for n, seconds in points])
    if slope <= 0.0 or intercept < 0.0:
        return 0.0, median(seconds / n for n, seconds in points)
    return intercept, slope


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    """Seconds for each unit of size between two points."""
    return (other[1] - one[1]) / (other[0] - one[0])


def _low_median(values: Sequence[float]) -> float:
    """The lower median: what disturbs a clock only makes it slower."""
    return sorted(values)[(len(values) - 1) // 2]


@dataclass(slots=True, kw_only=True)
class _Parts:
    """Seconds within one forward pass; `rest_s` is outside of blocks, tower and head."""

    blocks_s: float = 0.0
    tower_s: float = 0.0
    head_s: float = 0.0
    rest_s: float = 0.0


def _parts(loaded: LoadedModel, batch: PaddedBatch, repeats: int) -> _Parts:
    """The quickest of each part over some forward passes, after one that is not timed."""
    _forward(loaded, batch)
    runs = []
    for _ in range(repeats):
        with _stopwatch(loaded) as parts:
            whole_s = _timed(loaded, lambda: _forward(loaded, batch))
        parts.rest_s = max(0.0, whole_s - parts.blocks_s - parts.tower_s - parts.head_s)
        runs.append(parts)
    return _Parts(**{name: min(getattr(run, name) for run in runs) for name in _Parts.__slots__})


@contextmanager
def _stopwatch(loaded: LoadedModel) -> Iterator[_Parts]:
    """Hooks that add up the time in blocks, tower (with its connector) and head."""
    parts, family = _Parts(), loaded.family
    watched: list[tuple[Any, str]] = [(block, "blocks_s") for block in parts_of(loaded).blocks]
    watched.append((find_module(loaded.model, family.lm_head), "head_s"))
    tower = [path for path in (family.vision, family.connector) if path is not None]
    inside = tuple(f"{path}." for path in tower)  # Qwen's connector lies in its tower, and is timed with it
    watched += [(find_module(loaded.model, path), "tower_s") for path in tower if not path.startswith(inside)]
    began: dict[int, float] = {}
    with ExitStack() as stack:
        for module, name in watched:
            stack.callback(module.register_forward_pre_hook(_starter(loaded, began)).remove)
            stack.callback(module.register_forward_hook(_stopper(loaded, began, parts, name)).remove)
        yield parts


def _starter(loaded: LoadedModel, began: dict[int, float]) -> Any:
    def start(module: Any, args: Any) -> None:
        _settle(loaded)
        began[id(module)] = time.perf_counter()

    return start


def _stopper(loaded: LoadedModel, began: dict[int, float], parts: _Parts, name: str) -> Any:
    def stop(module: Any, args: Any, out: Any) -> None:
        _settle(loaded)
        setattr(parts, name, getattr(parts, name) + time.perf_counter() - began[id(module)])

    return stop


@torch.inference_mode()
def _full_head_row_s(loaded: LoadedModel, batch: PaddedBatch) -> float:
    """Seconds of one sample's logits in a full forward: of what the head was given there, laid out as it was."""
    prompts, seen = read_prompts(loaded, batch), list[tuple[Any, Any]]()
    head = find_module(loaded.model, loaded.family.lm_head)
    watching = head.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    try:
        cache, _ = fresh_cache(parts_of(loaded))
        keep = prompts.logits_to_keep(as_generate=True)
        loaded.model(**prompts.inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep)
    finally:
        watching.remove()
    ((args, kwargs),) = seen
    return min(_timed(loaded, lambda: head(*args, **kwargs)) for _ in range(LEAST_REPEATS)) / prompts.n_seq


def _decoding(loaded: LoadedModel, batches: Sequence[PaddedBatch], repeats: int) -> tuple[float, float] | None:
    """Seconds of a step, and of each row in it; None where this model's keys and values cannot be had."""
    points = []
    for batch in batches:
        prefill = run_prefill(loaded, batch, layers=[0])
        if prefill.obstacle is not None:
            return None
        _decode(loaded, prefill)  # warm
        seconds = min(_decode(loaded, prefill) for _ in range(repeats))
        points.append((prefill.prompts.n_seq, seconds / N_STEPS))
    return fit_line(points)


def _decode(loaded: LoadedModel, prefill: Prefill) -> float:
    assert prefill.logits_bv is not None
    start = start_of(prefill, prefill.logits_bv.argmax(-1), {}, n_more=N_STEPS, same_batch=False)
    return _timed(loaded, lambda: decode_greedily(loaded, start, n_more=N_STEPS, ends=frozenset()))


def _batch(loaded: LoadedModel, samples: Sequence[EncodedSample]) -> PaddedBatch:
    return pad_batch(samples, padding_side="left", pad_id=loaded.pad_id)


@torch.inference_mode()
def _forward(loaded: LoadedModel, batch: PaddedBatch) -> None:
    prompts = read_prompts(loaded, batch)
    cache, _ = fresh_cache(parts_of(loaded))
    loaded.model(**prompts.inputs, past_key_values=cache, use_cache=True, logits_to_keep=prompts.columns)


def _timed(loaded: LoadedModel, work: Callable[[], Any]) -> float:
    _settle(loaded)
    started = time.perf_counter()
    work()
    _settle(loaded)
    return time.perf_counter() - started


def _settle(loaded: LoadedModel) -> None:
    """Wait until the device has done what it was given."""
    if loaded.model.device.type == "cuda":
        torch.cuda.synchronize(loaded.model.device)
