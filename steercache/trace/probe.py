"""What the loaded kernels compute, as hashes: two CPUs of one name may differ in it, and so may two processes on one CPU.

Names do not tell (torch says AVX512 with and without AMX or AVX512-BF16; environment variables switch kernels). So fixed small
inputs are computed, and the bits of the results hashed. Sums cancel nearly to zero, which leaves what an order of additions
rounded: kernels that differ in it differ in most bits, where an ordinary sum would round to the same value.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional

from steercache.core.layout import DType

PRODUCTS = ((1, 576, 192), (16, 576, 192), (64, 576, 192), (96, 1024, 128))  # rows, inner size, columns
HEADS, TOKENS, HEAD_SIZE = 3, 72, 64
_HEX_DIGITS = 16


def probe_kernels(dtypes: Iterable[DType], device: torch.device, *, n_threads: int) -> dict[str, dict[str, str]]:
    """Hashes by dtype and kind of kernel, as this process computes on `device` with `n_threads` CPU threads.

    Measured once per process, dtype and setting: some 15 ms for each dtype.
    """
    settings = _settings()
    return {dtype: dict(_measure(dtype, device, n_threads, settings)) for dtype in sorted(set(dtypes))}


def _settings() -> tuple[Any, ...]:
    """What a process can change about its kernels after they are loaded: part of the key under which results are kept."""
    cuda = torch.backends.cuda
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.enabled,
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.enabled,
        torch.backends.cudnn.allow_tf32,
        cuda.matmul.allow_bf16_reduced_precision_reduction,
        cuda.matmul.allow_fp16_reduced_precision_reduction,
        *(getattr(cuda, f"{name}_sdp_enabled")() for name in ("flash", "mem_efficient", "math", "cudnn")),
    )


@lru_cache(maxsize=32)
@torch.inference_mode()
def _measure(
    dtype: DType, device: torch.device, n_threads: int, settings: tuple[Any, ...]
) -> tuple[tuple[str, str], ...]:
    kind: torch.dtype = getattr(torch, dtype)
    kernels = {
        "products": _products,
        "convolution": _convolution,
        "sdpa attention": _sdpa,
        "eager attention": _eager,
        "functions": _functions,
    }
    with _computing_on(n_threads):
        return tuple((name, _hash(compute(kind, device))) for name, compute in kernels.items())


@contextmanager
def _computing_on(n_threads: int) -> Iterator[None]:
    """Compute on `n_threads` CPU threads for the length of the block."""
    before = torch.get_num_threads()
    if n_threads == before:
        yield
        return
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _products(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    results = []
    for n_rows, n_inner, n_columns in PRODUCTS:
        x, weight = _cancelling(n_rows, n_columns, n_inner, dtype, device)
        results += [functional.linear(x, weight), x @ weight.T.contiguous()]
    return results


def _convolution(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    """A patch embedding: 14 x 14 pixels of three colours each."""
    x, weight = _cancelling(4, 32, 3 * 14 * 14, dtype, device)
    return [functional.conv2d(x.view(4, 3, 14, 14), weight.view(32, 3, 14, 14), stride=14)]


def _sdpa(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    q, k, v, mask = _heads(dtype, device)
    attend = functional.scaled_dot_product_attention
    one = q[:, :, -1:]  # as a decoded token attends
    return [attend(q, k, v, is_causal=True), attend(q, k, v, attn_mask=mask), attend(one, k, v)]


def _eager(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    q, k, v, mask = _heads(dtype, device)
    scores = (q @ k.transpose(-1, -2)) * HEAD_SIZE**-0.5
    weights = torch.softmax(scores.masked_fill(~mask, -1e4), dim=-1, dtype=torch.float32).to(dtype)
    return [scores, weights, weights @ v]


def _functions(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    x = _spread(24 * 576, dtype, device).view(24, 576)
    return [
        functional.silu(x),
        functional.gelu(x),
        functional.gelu(x, approximate="tanh"),
        functional.rms_norm(x, (576,)),
        functional.layer_norm(x, (576,)),
        torch.softmax(x, dim=-1),
        torch.cos(8 * x),
        torch.sin(8 * x),
        torch.exp(x),
        torch.tanh(x),
        torch.rsqrt(x.abs() + 1),
    ]


def _cancelling(
    n_rows: int, n_columns: int, n_inner: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices, (rows, inner) and (columns, inner), whose products are sums of terms that cancel far from each other."""
    half = n_inner // 2
    x = _spread(n_rows * half, dtype, device).view(n_rows, half)
    weight = _spread(n_columns * half, dtype, device, step=25_173).view(n_columns, half)
    return torch.cat([x, x.flip(1)], dim=1), torch.cat([weight, -weight.flip(1)], dim=1)


def _heads(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys, values (1, heads, tokens, size), and a causal mask. Values of neighbours nearly cancel."""
    shape = (1, HEADS, TOKENS, HEAD_SIZE)
    n = HEADS * TOKENS * HEAD_SIZE
    q, k, v = (_spread(n, dtype, device, step=step).view(shape) for step in (40_503, 25_173, 13_849))
    sign = 1 - 2 * (torch.arange(TOKENS, device=device) % 2)[None, None, :, None].to(dtype)
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool, device=device).tril()
    return q, k, (v.abs() + 8) * sign, mask


def _spread(n: int, dtype: torch.dtype, device: torch.device, *, step: int = 40_503) -> torch.Tensor:
    """`n` values from -0.5 to 0.5 in a fixed disorder, made of whole numbers: equal everywhere before rounding."""
    return ((torch.arange(n, device="cpu") * step % 65_521).to(torch.float64) / 65_521 - 0.5).to(dtype).to(device)


def _hash(results: Sequence[torch.Tensor]) -> str:
    h = hashlib.sha256()
    for result in results:
        h.update(result.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return h.hexdigest()[:_HEX_DIGITS]
