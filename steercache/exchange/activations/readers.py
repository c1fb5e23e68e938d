"""The formats that activations are taken in from, by name."""

from collections.abc import Mapping
from typing import Final

from steercache.exchange.activations.arrow import read_sae_lens
from steercache.exchange.activations.captured import Reader
from steercache.exchange.activations.dumps import read_torch
from steercache.exchange.activations.folders import read_npy, read_safetensors, read_speculators, read_vllm
from steercache.exchange.activations.lens import read_vllm_lens

READERS: Final[Mapping[str, Reader]] = {
    "vllm": read_vllm,
    "speculators": read_speculators,
    "vllm-lens": read_vllm_lens,
    "sae-lens": read_sae_lens,
    "torch": read_torch,
    "npy": read_npy,
    "safetensors": read_safetensors,
}
