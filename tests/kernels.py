"""Other kernels in this process, or in others: what a machine of another kind would compute."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

# Environment variables that oneDNN reads when it is loaded. None of them changes what torch calls the CPU.
CPUS: tuple[Mapping[str, str], ...] = tuple(
    {"ONEDNN_MAX_CPU_ISA": isa} for isa in ("AVX512_CORE", "AVX2_VNNI_2", "AVX2", "SSE41")
)
MEASURE = """
import json, torch
from steercache.trace.probe import probe_kernels
from tests.kernels import products
torch.set_num_threads(1)
probe = probe_kernels(["float32", "bfloat16"], torch.device("cpu"), n_threads=1)
print(json.dumps([torch.backends.cpu.get_cpu_capability(), products(), probe]))
"""


@dataclass(frozen=True)
class Measured:
    """What torch calls the CPU, a hash of plain products, and what the probe says."""

    cpu: str
    products: str
    probe: dict[str, dict[str, str]]


def products() -> str:
    """Hash of plain bfloat16 products, large enough that two orders of additions round differently somewhere."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(256, 576, generator=generator).bfloat16()
    for _ in range(8):
        h = torch.nn.functional.linear(h, torch.randn(576, 576, generator=generator).bfloat16() / 24)
    return hashlib.sha256(h.view(torch.uint8).numpy().tobytes()).hexdigest()


@contextmanager
def without_onednn() -> Iterator[None]:
    """bfloat16 products by torch's own kernels."""
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


@cache
def measured(**env: str) -> Measured:
    """What a fresh Python measures under some environment variables."""
    found = subprocess.run(
        [sys.executable, "-c", MEASURE], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    return Measured(*json.loads(found.stdout))


def another_cpu() -> Mapping[str, str]:
    """Environment variables under which a process multiplies bfloat16 differently from this one, on a CPU of the same name."""
    for env in CPUS:
        if measured(**env).products != products():
            return env
    raise AssertionError("no environment variable changes this machine's bfloat16 products")
