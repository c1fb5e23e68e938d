"""The table of formats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from steercache.core.errors import UsageError
from steercache.exchange.vectors.arrays import ARCHIVE, read_numpy, read_safetensors
from steercache.exchange.vectors.expressed import Consumer
from steercache.exchange.vectors.gguf import LLAMA_CPP, read_gguf
from steercache.exchange.vectors.held import HeldVector
from steercache.exchange.vectors.saklas import SAKLAS, read_saklas
from steercache.exchange.vectors.script import SCRIPT
from steercache.exchange.vectors.torch_formats import (
    LM_EVAL,
    STEERING_VECTORS,
    read_lm_eval,
    read_pytorch,
    read_steering_vectors,
    read_text_steers_vision,
)
from steercache.exchange.vectors.vllm import EASYSTEER, VLLM_LENS, read_easysteer, read_vllm_lens

VectorFormat = Literal[
    "gguf",
    "steering-vectors",
    "lm-eval",
    "saklas",
    "easysteer",
    "vllm-lens",
    "pytorch",
    "textsteersvision",
    "npz",
    "safetensors",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatRow:
    """One format: what its consumer does (None: it is only read), its reader, and the ends of its files' names."""

    consumer: Consumer | None
    read: Callable[[Path], HeldVector]
    suffixes: tuple[str, ...]
    usual: bool = False  # what a file of such a name is taken for where nobody says


FORMATS: Final[Mapping[VectorFormat, FormatRow]] = MappingProxyType(
    {
        "gguf": FormatRow(consumer=LLAMA_CPP, read=read_gguf, suffixes=(".gguf",), usual=True),
        "steering-vectors": FormatRow(consumer=STEERING_VECTORS, read=read_steering_vectors, suffixes=(".pt", ".pth")),
        "lm-eval": FormatRow(consumer=LM_EVAL, read=read_lm_eval, suffixes=(".pt", ".pth")),
        "saklas": FormatRow(consumer=SAKLAS, read=read_saklas, suffixes=(".safetensors",)),
        "easysteer": FormatRow(consumer=EASYSTEER, read=read_easysteer, suffixes=(".gguf",)),
        "vllm-lens": FormatRow(consumer=VLLM_LENS, read=read_vllm_lens, suffixes=(".json",), usual=True),
        "pytorch": FormatRow(consumer=SCRIPT, read=read_pytorch, suffixes=(".py", ".pt", ".pth")),
        "textsteersvision": FormatRow(consumer=None, read=read_text_steers_vision, suffixes=(".pt",)),
        "npz": FormatRow(consumer=ARCHIVE, read=read_numpy, suffixes=(".npz", ".npy"), usual=True),
        "safetensors": FormatRow(consumer=ARCHIVE, read=read_safetensors, suffixes=(".safetensors",), usual=True),
    }
)


def format_of(path: Path, named: str | None) -> VectorFormat:
    """The format that is named, or that files of such a name usually have.

    Raises:
        UsageError: an unknown name; a suffix that several formats share, or none has.
    """
    if named is not None:
        found = next((one for one in FORMATS if one == named), None)
        if found is None:
            raise UsageError(f"no format named {named!r:.60}", hint=f"choose one of: {', '.join(FORMATS)}")
        return found
    suffix = path.suffix.lower()
    usual = [name for name, row in FORMATS.items() if row.usual and suffix in row.suffixes]
    if usual:
        return usual[0]
    having = [name for name, row in FORMATS.items() if suffix in row.suffixes]
    what = (
        f"files ending in {suffix!r} have several formats"
        if having
        else f"no format has files ending in {suffix!r:.20}"
    )
    raise UsageError(what, place=str(path), hint=f"name the format: {', '.join(having or FORMATS)}")
