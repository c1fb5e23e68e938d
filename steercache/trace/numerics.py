"""What may move the last bits of an activation, beside what is asked for."""

from importlib.metadata import version
from typing import Any

import torch


def numerics(*, attention: str, device: torch.device, n_threads: int | None = None) -> dict[str, Any]:
    """Attention implementation, kind of device, threads, matmul settings and library versions, as JSON values."""
    found: dict[str, Any] = {
        "attention": attention,
        "device": device.type,
        "threads": n_threads or torch.get_num_threads(),
        "float32_matmul": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("transformers", "nnsight", "tokenizers")},
    }
    if device.type == "cpu":
        return found | {"isa": torch.backends.cpu.get_cpu_capability()}
    if device.type == "cuda":
        return found | {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return found
