"""A quantised model in memory: which modules compute, whether anything stayed codes, whether gradients pass through."""

import importlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from transformers import BitsAndBytesConfig, TorchAoConfig

from steercache.core.errors import ManifestError
from steercache.manifests.quantization import BitsAndBytes, Quantization
from steercache.models.checkpoint_folder import Checkpoint
from steercache.models.quantised import Quantised
from steercache.models.weight_files import listed, tensors_of

_FROM_TORCHAO: Final = {
    "int8": "Int8WeightOnlyConfig",
    "float8": "Float8WeightOnlyConfig",
    "int8-dynamic": "Int8DynamicActivationInt8WeightConfig",
}
_MEMO = "gradient obstacle"


def modules_of(model: Any) -> dict[str, int]:
    """How many modules of each class multiply by a weight matrix: FP8 weights are unpacked on one machine and multiplied as
    codes on another, and packages choose their kernels by what is installed."""
    return dict(sorted(Counter(_kind(module) for module in _linears(model)).items()))


def loading_config(quantization: Quantization, dtype: torch.dtype) -> Any:
    """What transformers is given for a manifest's `quantization`. Raises ImportError where a package is missing."""
    if isinstance(quantization, BitsAndBytes):
        scheme = quantization.scheme()
        make: Any = BitsAndBytesConfig  # which has no types
        if quantization.bits == 8:
            return make(load_in_8bit=True, llm_int8_threshold=scheme["outliers"])
        return make(
            load_in_4bit=True,
            bnb_4bit_quant_type=scheme["codes"],
            bnb_4bit_use_double_quant=scheme["nested"],
            bnb_4bit_compute_dtype=dtype,
        )
    torchao = importlib.import_module("torchao.quantization")
    return TorchAoConfig(getattr(torchao, _FROM_TORCHAO[quantization.weights])())


def settle(model: Any, *, one_device: bool) -> None:
    """Make the model in memory the one that will compute.

    compressed-tensors unpacks its weights in the first forward pass, and from then on copies every weight each time that it is
    looked at, which a backward pass takes for a change: not on one device.
    """
    compressor = getattr(getattr(model, "hf_quantizer", None), "compressor", None)
    if compressor is not None and hasattr(compressor, "decompress_model"):
        compressor.decompress_model(model)
        if one_device:
            importlib.import_module("compressed_tensors.offload").remove_dispatch(model, onload_tensors=True)


def refuse_misread(model: Any, checkpoint: Checkpoint, quantised: Quantised, dtype: torch.dtype) -> None:
    """Look for what a quantiser did otherwise than its configuration says, and than the manifest asks.

    Raises:
        ManifestError: weights that are codes in a module that takes them for numbers; block scales spread over other blocks;
            another compute dtype.
    """
    place = str(checkpoint.folder)
    raw = [name for name, p in model.named_parameters() if p.dtype.itemsize == 1 and _is_plain(model, name)]
    if raw:
        raise ManifestError(
            f"{len(raw)} weights stayed {quantised.method} codes in modules that take them for numbers: {listed(raw)}",
            place=place,
            hint="use the unquantised checkpoint",
        )
    computes = model.get_input_embeddings().weight.dtype
    if computes != dtype and computes.is_floating_point and computes.itemsize > 1:
        raise ManifestError(
            f"its weights that are not quantised come as {_name(computes)}, whatever dtype is asked for ({_name(dtype)})",
            place=place,
            hint=f"ask for dtype {_name(computes)}, or leave it at auto",
        )
    if quantised.method == "fp8" and not quantised.at_load:
        _refuse_other_blocks(model, checkpoint, quantised)


def _refuse_other_blocks(model: Any, checkpoint: Checkpoint, quantised: Quantised) -> None:
    """transformers unpacks FP8 with blocks of the weight's size over the scales' size, which is not the stored size of a block
    where the last block is cut off."""
    size = quantised.settings.get("weight_block_size")
    if not size:
        return
    tensors, unpacked, wrong = tensors_of(checkpoint.files), dict(model.named_parameters()), []
    for name, entry in tensors.items():
        scales = tensors.get(f"{name}_scale_inv")
        weight = unpacked.get(name)
        if scales is None or len(entry["shape"]) != 2 or weight is None or weight.dtype.itemsize == 1:
            continue
        grid = [math.ceil(n / b) for n, b in zip(entry["shape"], size, strict=True)]
        cut = any(n % b and n > b for n, b in zip(entry["shape"], size, strict=True))
        if list(scales["shape"]) == grid and cut:
            wrong.append(name)
    if wrong:
        raise ManifestError(
            f"{len(wrong)} FP8 weights are no whole number of blocks of {size[0]} x {size[1]}, and transformers would unpack "
            f"them with blocks of another size: {listed(wrong)}",
            place=str(checkpoint.folder),
            hint="load it where FP8 is multiplied as it is (an NVIDIA GPU of compute capability 8.9), or use the bfloat16 copy",
        )


def gradient_obstacle(model: Any, envoys: dict[str, Any]) -> str | None:
    """Why a gradient through this model's modules would be wrong; None: it is right, as far as one module of each class shows.

    Kernels for codes often have no backward pass, or rounding of activations stops it: what is left then is the residual
    stream's own gradient, without an error. Asked once for a model in memory (`envoys`).
    """
    if _MEMO not in envoys:
        envoys[_MEMO] = _gradient_obstacle(model)
    found: str | None = envoys[_MEMO]
    return found


def _gradient_obstacle(model: Any) -> str | None:
    seen: set[str] = set()
    for module in _linears(model):
        kind = _kind(module)
        if kind not in seen and not _passes_gradients(module, model.dtype):
            return f"{kind} passes no gradient on here"
        seen.add(kind)
    tried = {id(module) for module in _linears(model)}
    for module in model.modules():  # experts with codes of their own, say
        if id(module) not in tried and any(p.dtype.itemsize == 1 for p in module.parameters(recurse=False)):
            return f"{_kind(module)} is not known to pass gradients on"
    return None


def _passes_gradients(module: Any, dtype: torch.dtype) -> bool:
    """Whether the gradient of c . (W x + b) with regard to x, times x, is c . W x."""
    device = next((p.device for p in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.randn(4, module.in_features, generator=draw, device="cpu").to(device, dtype).requires_grad_()
        try:
            y = module(x)
            if not y.requires_grad:
                return False
            c = torch.randn(y.shape, generator=draw, device="cpu").to(y)
            (grad,) = torch.autograd.grad((y * c).sum(), x)
        except (RuntimeError, NotImplementedError):
            return False
        with torch.no_grad():
            moved = ((y - module(torch.zeros_like(x))) * c).double()
        got, wanted = float((grad.double() * x.double()).sum()), float(moved.sum())
    return abs(got - wanted) <= 0.05 * float(moved.norm()) + 1e-6


def _linears(model: Any) -> Iterator[Any]:
    """Modules that multiply by a weight matrix; of whatever class a quantiser put there."""
    head = model.get_output_embeddings()
    for module in model.modules():
        if module is not head and hasattr(module, "in_features") and hasattr(module, "out_features"):
            yield module


def _kind(module: Any) -> str:
    """The class of a module, and that of its weight where a quantiser made that one of its own (torchao)."""
    weight = getattr(module, "weight", None)
    inner = type(getattr(weight, "data", None)).__name__
    return type(module).__name__ + (f" of {inner}" if inner not in ("Tensor", "Parameter", "NoneType") else "")


def _is_plain(model: Any, name: str) -> bool:
    """Whether a parameter is of a class of torch, which takes it for numbers, and no tensor of a quantiser's class."""
    holder, _, leaf = name.rpartition(".")
    module = model.get_submodule(holder)
    return type(module).__module__.startswith("torch.nn") and type(getattr(module, leaf).data) is torch.Tensor


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def settings_of_numerics(quantised: Quantised, model: Any | None) -> Mapping[str, Any]:
    """What of a quantised model may move the last bits: releases, and once it is in memory the classes that compute."""
    found: dict[str, Any] = {"method": quantised.method, **quantised.packages}
    return found if model is None else found | {"modules": modules_of(model)}
