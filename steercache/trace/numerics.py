"""What may move the last bits of an activation: implementations and versions by name; what the kernels compute, measured.

One function for a model that is not loaded yet (`numerics`), one for a model in memory (`numerics_of`); every worker calls the
latter after loading. Two results are compared by `core.numerics.numeric_differences`.
"""

from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from steercache.core.errors import BudgetError
from steercache.core.layout import DType
from steercache.core.numerics import PROBE, QUANTISED
from steercache.models.load import resolve_device
from steercache.models.quantised_modules import settings_of_numerics
from steercache.models.spec import LoadedModel, TokenizerBundle
from steercache.trace.picture_probe import picture_numerics
from steercache.trace.probe import probe_kernels

ALWAYS: tuple[DType, ...] = ("float32",)  # norms, rotary angles and attention weights are computed in it in every model


def numerics(bundle: TokenizerBundle, *, device: torch.device, n_threads: int | None = None) -> dict[str, Any]:
    """Numerics of a model on `device` with `n_threads` CPU threads (None: as many as torch uses now), as JSON values.

    `probe` has hashes of what the kernels compute, `pictures` (multimodal models) what decodes pictures.

    Raises:
        BudgetError: the device has no memory left for the probe (some 10 MiB).
    """
    spec, n_threads = bundle.spec, n_threads or torch.get_num_threads()
    found = {
        "attention": spec.attention,
        "device": device.type,
        "threads": n_threads,
        "float32_matmul": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        **_versions(),
        PROBE: _probe([spec.dtype, *ALWAYS], device, n_threads=n_threads),
    }
    if spec.quantised is not None:
        found[QUANTISED] = settings_of_numerics(spec.quantised, None)
    if spec.modality == "image":
        found |= {"vision_attention": spec.attention, "pictures": picture_numerics(bundle.processor)}
    if device.type == "cpu":
        return found | {"isa": torch.backends.cpu.get_cpu_capability()}
    if device.type == "cuda":
        return found | {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return found


def numerics_of(loaded: LoadedModel, *, n_threads: int | None = None) -> dict[str, Any]:
    """Numerics of a model in memory: where it lies, and with the attention that it was given, in the vision tower too.

    Of a model whose weights are not in memory, on the device that `auto` means.
    """
    if loaded.model is None:
        return numerics(loaded.bundle, device=resolve_device("auto"), n_threads=n_threads)
    found = numerics(loaded.bundle, device=loaded.model.device, n_threads=n_threads)
    if loaded.spec.quantised is not None:
        found[QUANTISED] = settings_of_numerics(loaded.spec.quantised, loaded.model)
    config = loaded.model.config
    parts = {"attention": config.get_text_config(), "vision_attention": getattr(config, "vision_config", None)}
    for name, part in parts.items():
        implementation = getattr(part, "_attn_implementation", None)
        if name in found and implementation is not None:
            found[name] = implementation
    return found


def _probe(dtypes: list[DType], device: torch.device, *, n_threads: int) -> dict[str, dict[str, str]]:
    try:
        return probe_kernels(dtypes, device, n_threads=n_threads)
    except torch.OutOfMemoryError as error:
        raise BudgetError(
            f"{device} has no memory left to measure its numerics", place=str(device), hint="another device, or wait"
        ) from error


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("transformers", "nnsight", "tokenizers")}
