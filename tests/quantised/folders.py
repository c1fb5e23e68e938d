"""Checkpoint folders with quantised weights, as the hub has them, written by hand beside the dense weights that they mean."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.models.tiny import write_tiny

Tensors = dict[str, torch.Tensor]
WIDTH = 64  # kernels of several packages want rows of 32 or 64
SIZES = {"hidden_size": WIDTH, "intermediate_size": 128, "head_dim": 16, "tie_word_embeddings": False}
GROUP = 16


def dense(folder: Path, dtype: torch.dtype = torch.bfloat16, **sizes: Any) -> Path:
    """A tiny Llama whose products divide into groups."""
    write_tiny("llama", folder, **(SIZES | sizes))
    save(folder, {name: value.to(dtype) for name, value in weights_of(folder).items()})
    edit_config(folder, dtype=str(dtype).removeprefix("torch."))
    return folder


def weights_of(folder: Path) -> Tensors:
    return dict(load_file(folder / "model.safetensors"))


def save(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    save_file(
        {n: x.clone().contiguous() for n, x in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write(folder: Path, how: str) -> Tensors:
    """A quantised folder; returns the weights that its codes and scales stand for, float32, by name."""
    weights = weights_of(dense(folder))
    stored, meant = dict(weights), {}
    for name in [n for n in weights if n.endswith("_proj.weight")]:
        parts, values = _WAYS[how](weights[name].float())
        del stored[name]
        stored |= {name.removesuffix("weight") + part: x for part, x in parts.items()}
        meant[name] = values
    save(folder, stored)
    edit_config(folder, quantization_config=_CONFIGS[how])
    return {name: value.float() for name, value in weights.items()} | meant


def _fp8(w: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """Blocks of 16 x 16, one scale each."""
    rows, columns = (n // GROUP for n in w.shape)
    blocks = w.reshape(rows, GROUP, columns, GROUP)
    scales = blocks.abs().amax((1, 3)) / 448
    codes = (blocks / scales[:, None, :, None]).reshape(w.shape).to(torch.float8_e4m3fn)
    spread = scales.repeat_interleave(GROUP, 0).repeat_interleave(GROUP, 1)
    return {"weight": codes, "weight_scale_inv": scales}, codes.float() * spread


def _rows_fp8(w: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scales = (w.abs().amax(1, keepdim=True) / 448).bfloat16()
    codes = (w / scales.float()).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scales}, codes.float() * scales.float()


def _four_bits(w: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes -8..7 (out, in), scales (out, groups), and what they mean."""
    groups = w.reshape(w.shape[0], -1, GROUP)
    scales = (groups.abs().amax(-1) / 7).to(dtype)
    codes = (groups / scales.float()[..., None]).round().clamp(-8, 7)
    return codes.reshape(w.shape).long(), scales, (codes * scales.float()[..., None]).reshape(w.shape)


def _packed_in_rows(codes: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Eight unsigned 4-bit codes along the last axis into one int32."""
    fields = codes.long().unflatten(-1, (-1, 8))
    word = sum(fields[..., place] << (4 * i) for i, place in enumerate(order))
    assert isinstance(word, torch.Tensor)
    return torch.where(word >= 2**31, word - 2**32, word).int()


def _compressed(w: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    codes, scales, meant = _four_bits(w, torch.bfloat16)
    parts = {"weight_packed": _packed_in_rows(codes + 8), "weight_scale": scales}
    return parts | {"weight_shape": torch.tensor(w.shape)}, meant


def _gptq(w: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    codes, scales, meant = _four_bits(w, torch.float16)
    zeros = torch.full((w.shape[1] // GROUP, w.shape[0]), 7)  # its format stores the zero point less one
    parts = {"qweight": _packed_in_rows(codes + 8).t(), "qzeros": _packed_in_rows(zeros), "scales": scales.t()}
    return parts | {"g_idx": torch.arange(w.shape[1], dtype=torch.int32) // GROUP}, meant


def _awq(w: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    codes, scales, meant = _four_bits(w, torch.float16)
    zeros = torch.full((w.shape[1] // GROUP, w.shape[0]), 8)
    parts = {"qweight": _packed_in_rows((codes + 8).t(), order), "qzeros": _packed_in_rows(zeros, order)}
    return parts | {"scales": scales.t()}, meant


def _compressed_config(layout: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    about = {"quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed"}
    return {**about, "ignore": ["lm_head"], "kv_cache_scheme": None, "config_groups": {"group_0": group}}


_WAYS: dict[str, Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]] = {
    "fp8": _fp8,
    "compressed-fp8": _rows_fp8,
    "compressed-int4": _compressed,
    "gptq": _gptq,
    "awq": _awq,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [GROUP, GROUP], "fmt": "e4m3"},
    "compressed-fp8": _compressed_config(
        "float-quantized",
        {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False},
        {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True},
    ),
    "compressed-int4": _compressed_config(
        "pack-quantized",
        {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP, "dynamic": False},
        None,
    ),
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
}
