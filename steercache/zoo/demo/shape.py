"""The shape of *demo*: picture, patches, tower, and the Idefics3 configuration around SmolLM2-135M."""

from typing import Any, Final

import torch

SIDE: Final = 100  # pixels
PATCH: Final = 10
N_PATCHES: Final = SIDE // PATCH  # along a side: 10 x 10 patches
SHUFFLE: Final = 2  # patches along a side that become one image token
N_CELLS: Final = N_PATCHES // SHUFFLE  # along a side: 5 x 5 image tokens
N_IMAGE_TOKENS: Final = N_CELLS**2
NEW_TOKENS: Final = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")


def make_config(text_config: Any, *, vocab_size: int, image_token_id: int) -> Any:
    """The Idefics3 configuration: SmolLM2's own text configuration, with rows for the four new tokens."""
    from transformers import Idefics3Config

    make: Any = Idefics3Config
    text = {**text_config.to_dict(), "vocab_size": vocab_size}
    text.pop("_name_or_path", None)
    text.pop("architectures", None)
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    return make(
        vision_config=vision,
        text_config=text,
        scale_factor=SHUFFLE,
        image_token_id=image_token_id,
        tie_word_embeddings=True,
        pad_token_id=text_config.pad_token_id,
        bos_token_id=text_config.bos_token_id,
        eos_token_id=text_config.eos_token_id,
    )


def to_pixels(images: list[Any]) -> torch.Tensor:
    """Pictures as the image processor gives them: float32 (b, 3, side, side) in [-1, 1]."""
    import numpy as np

    stacked = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
