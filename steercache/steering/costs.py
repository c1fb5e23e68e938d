"""What a model's forward pass costs on this machine, part by part: measured once, to say what a grid will take.

Time in a part is affine in what it is given: a call costs something whatever it computes (launching, Python), a token costs the
same each. Two batch sizes give both. Blocks, tower and head are timed where they run, in the model's own forward, by hooks.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import torch
from transformers import DynamicCache

from steercache.cache.calibration import costs_key
from steercache.core.examples import EncodedSample
from steercache.models.families import find_module
from steercache.models.spec import LoadedModel, ModelSpec
from steercache.steering.decode import decode_greedily
from steercache.steering.live import parts_of
from steercache.steering.pool import start_of
from steercache.steering.prefill import Prefill, read_prompts, run_prefill
from steercache.trace.batches import PaddedBatch, pad_batch

MANY: Final = 8  # samples of the larger batch, if they run in about a second
N_STEPS: Final = 3  # tokens decoded
REPEATS: Final = 3  # the quickest counts: what is slower was disturbed


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardCosts:
    """Seconds: of calling one block at all, and of each token in it; of a token's logits; of a picture in tower and connector;
    of a step of decoding at all, and of each sequence in it."""

    block_call_s: float
    block_token_s: float
    head_row_s: float
    picture_s: float
    step_s: float
    step_row_s: float

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
    """Time this model on `samples` (each with one picture, for a multimodal model): a second or two, more where one forward
    pass of one sample takes longer."""
    one = _batch(loaded, samples[:1])
    first_s = _timed(loaded, lambda: _forward(loaded, one))  # slower than what follows: kernels are chosen
    n_many = max(1, min(MANY, len(samples), int(1.0 / max(first_s, 1e-6))))
    many = _batch(loaded, samples[:n_many])
    repeats = REPEATS if first_s * (1 + n_many) < 1.0 else 1
    small, large = (_parts(loaded, batch, repeats) for batch in (one, many))
    n_blocks = len(parts_of(loaded).blocks)
    call_s, token_s = _line(
        (one.input_ids.numel(), small.blocks_s / n_blocks), (many.input_ids.numel(), large.blocks_s / n_blocks)
    )
    step_s, row_s = _decoding(loaded, (one, many), repeats) or (n_blocks * call_s, n_blocks * token_s)
    return ForwardCosts(
        block_call_s=call_s,
        block_token_s=token_s,
        head_row_s=large.head_s / n_many,
        picture_s=large.tower_s / n_many,
        step_s=step_s,
        step_row_s=row_s,
    )


@dataclass(slots=True, kw_only=True)
class _Parts:
    """Seconds within one forward pass."""

    blocks_s: float = 0.0
    tower_s: float = 0.0
    head_s: float = 0.0


def _parts(loaded: LoadedModel, batch: PaddedBatch, repeats: int) -> _Parts:
    """The quickest of each part over some forward passes."""
    runs = []
    for _ in range(repeats):
        with _stopwatch(loaded) as parts:
            _forward(loaded, batch)
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


def _decoding(loaded: LoadedModel, batches: Sequence[PaddedBatch], repeats: int) -> tuple[float, float] | None:
    """Seconds of a step, and of each row in it; None where this model's keys and values cannot be had."""
    points = []
    for batch in batches:
        prefill = run_prefill(loaded, batch, layers=[0])
        if prefill.obstacle is not None:
            return None
        seconds = min(_decode(loaded, prefill) for _ in range(repeats))
        points.append((prefill.prompts.n_seq, seconds / N_STEPS))
    return _line(*points)


def _decode(loaded: LoadedModel, prefill: Prefill) -> float:
    assert prefill.logits_bv is not None
    start = start_of(prefill, prefill.logits_bv.argmax(-1), {}, n_more=N_STEPS, same_batch=False)
    return _timed(loaded, lambda: decode_greedily(loaded, start, n_more=N_STEPS, ends=frozenset()))


def _line(small: tuple[int, float], large: tuple[int, float]) -> tuple[float, float]:
    """Intercept and slope through two points (size, seconds), neither below 0; of a single size all is slope."""
    (n, small_s), (m, large_s) = small, large
    if m <= n or large_s <= small_s:
        return 0.0, large_s / m
    slope = min((large_s - small_s) / (m - n), large_s / m)
    return max(0.0, large_s - slope * m), slope


def _batch(loaded: LoadedModel, samples: Sequence[EncodedSample]) -> PaddedBatch:
    return pad_batch(samples, padding_side="left", pad_id=loaded.tokenizer.pad_token_id or 0)


@torch.inference_mode()
def _forward(loaded: LoadedModel, batch: PaddedBatch) -> None:
    prompts = read_prompts(loaded, batch)
    loaded.model(**prompts.inputs, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=prompts.columns)


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
