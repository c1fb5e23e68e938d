"""Whether every tensor of codes in a checkpoint has the scales that its method stores beside it, and every scale its codes.

transformers reports some of what is missing, and computes on the rest as if it were weights: FP8 codes without scales stay
codes, FP8 scales of weights that are not FP8 are dropped, nested scales of bitsandbytes that are missing are made up.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from steercache.core.errors import DamagedError, ManifestError
from steercache.models.checkpoint_folder import Checkpoint
from steercache.models.quantised import stored_settings
from steercache.models.weight_files import listed, tensors_of

Tensors = Mapping[str, Mapping[str, Any]]
_CODES: Final = frozenset({"F8_E4M3", "F8_E5M2", "I8", "U8", "F4", "I32"})
_FP8_SCALE: Final = re.compile(r"^(?:(.+)_scale_inv|(.+)\.scale|(.+)\.qscale_weight)$")
_DENSE: Final = frozenset({"F64", "F32", "F16", "BF16"})


def refuse_incomplete(checkpoint: Checkpoint) -> None:
    """Look at the names and dtypes in a quantised checkpoint's files, without loading them.

    Raises:
        DamagedError: codes without what their values are computed with. ManifestError: scales of weights that are no codes.
    """
    stored = stored_settings(checkpoint.config)
    if stored is None:
        return
    tensors, method = tensors_of(checkpoint.files), stored.get("quant_method")
    find = _FINDERS.get(str(method))
    lacking = sorted(find(tensors)) if find else []
    if lacking:
        raise DamagedError(
            f"{len(lacking)} tensors that its {method} weights are computed with are not in its files: {listed(lacking)}",
            place=str(checkpoint.folder),
            hint="fetch the model again; config.json may be another model's",
        )
    idle = sorted(name for name in tensors if method == "fp8" and _is_idle(name, tensors))
    if idle:
        raise ManifestError(
            f"{len(idle)} FP8 scales are of weights that are not stored in FP8, so they would be dropped: {listed(idle)}",
            place=str(checkpoint.folder),
            hint="its weights or its scales were replaced: fetch the model again",
        )


def _fp8(tensors: Tensors) -> Iterator[str]:
    for name, entry in tensors.items():
        if entry["dtype"] in _CODES and not _FP8_SCALE.match(name):
            stem = name.removesuffix(".weight")
            if not {f"{name}_scale_inv", f"{stem}.scale", f"{stem}.qscale_weight"} & tensors.keys():
                yield f"{name}_scale_inv"


def _is_idle(name: str, tensors: Tensors) -> bool:
    """Whether it is a scale of FP8 weights, and what it scales is dense."""
    found = _FP8_SCALE.match(name)
    if found is None:
        return False
    stem = found[1] or f"{found[2] or found[3]}.weight"
    return tensors.get(stem, {}).get("dtype") in _DENSE


def _bitsandbytes(tensors: Tensors) -> Iterator[str]:
    for name, entry in tensors.items():
        if not name.endswith(".weight"):
            continue
        if entry["dtype"] == "I8" and (scales := f"{name.removesuffix('.weight')}.SCB") not in tensors:
            yield scales
        states = any(other in tensors for other in (f"{name}.quant_state.bitsandbytes__{c}" for c in ("nf4", "fp4")))
        if entry["dtype"] == "U8" or states:
            if not states:
                yield f"{name}.quant_state.bitsandbytes__nf4"
            nested = tensors.get(f"{name}.absmax", {}).get("dtype") == "U8"
            parts = ("absmax", "quant_map", *(("nested_absmax", "nested_quant_map") if nested else ()))
            yield from (part for part in (f"{name}.{p}" for p in parts) if part not in tensors)


def _packed(tensors: Tensors) -> Iterator[str]:
    """GPTQ and AWQ."""
    for name in tensors:
        if name.endswith(".qweight"):
            stem = name.removesuffix("qweight")
            yield from (part for part in (f"{stem}qzeros", f"{stem}scales") if part not in tensors)


def _mxfp4(tensors: Tensors) -> Iterator[str]:
    for name in tensors:
        if name.endswith("_blocks") and (scales := f"{name.removesuffix('_blocks')}_scales") not in tensors:
            yield scales


_FINDERS: Final = {"fp8": _fp8, "bitsandbytes": _bitsandbytes, "gptq": _packed, "awq": _packed, "mxfp4": _mxfp4}
