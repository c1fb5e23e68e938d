"""Putting *demo* together: SmolLM2, four new tokens, the tower, the connector, the low-rank update, processors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from steercache.core.errors import DamagedError
from steercache.zoo.demo.chat import CHAT_TEMPLATE
from steercache.zoo.demo.lora import merge_low_rank
from steercache.zoo.demo.shape import N_IMAGE_TOKENS, NEW_TOKENS, SIDE, make_config
from steercache.zoo.smollm2 import load_smollm2, load_smollm2_tokenizer

NEW_ROWS_SEED: Final = 20_261_127


def make_tokenizer(tokenizer: Any) -> Any:
    """SmolLM2's tokenizer with Idefics3's four tokens after its own (49,152 to 49,155)."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(NEW_TOKENS)})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_processor(tokenizer: Any) -> Any:
    """The ordinary Idefics3 processor: no tiles, 100 x 100 pixels, 25 image tokens."""
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE},
        max_image_size={"longest_edge": SIDE},
        do_image_splitting=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return Idefics3Processor(
        image_processor, tokenizer, image_seq_len=N_IMAGE_TOKENS, chat_template=tokenizer.chat_template
    )


def new_rows(embedding_vd: torch.Tensor) -> torch.Tensor:
    """Embeddings of the new tokens, (4, d) float32: the vocabulary's mean plus a little seeded noise; never trained."""
    mean_d = embedding_vd.float().mean(0)
    noise = torch.randn(len(NEW_TOKENS), len(mean_d), generator=torch.Generator().manual_seed(NEW_ROWS_SEED))
    return mean_d + 0.02 * noise


def make_model(backbone: Any, tokenizer: Any) -> Any:
    """An Idefics3 model in bfloat16 whose text side is the backbone; tower and connector are random."""
    from transformers import Idefics3ForConditionalGeneration

    family: Any = Idefics3ForConditionalGeneration
    embedding = backbone.model.embed_tokens.weight.detach()
    vocab_size = len(embedding) + len(NEW_TOKENS)
    config = make_config(
        backbone.config, vocab_size=vocab_size, image_token_id=tokenizer.convert_tokens_to_ids("<image>")
    )
    model = family._from_config(config, dtype=torch.bfloat16)
    state = backbone.model.state_dict()
    state["embed_tokens.weight"] = torch.cat([embedding, new_rows(embedding).to(embedding.dtype)])
    model.model.text_model.load_state_dict(state)
    model.tie_weights()
    return model.eval()


def put_tower(model: Any, vision: Mapping[str, torch.Tensor], connector: torch.Tensor) -> None:
    """Loads the tower's weights and the connector's (d, c) in place."""
    model.model.vision_model.load_state_dict(dict(vision))
    model.model.connector.modality_projection.proj.weight.data.copy_(connector)


def write_delta(path: Path, *, model: Any, low_rank: Mapping[str, torch.Tensor]) -> None:
    """All of *demo* that is not SmolLM2, in bfloat16: `vision.*`, `connector`, `low_rank.*`."""
    tensors = {f"vision.{name}": value for name, value in model.model.vision_model.state_dict().items()}
    tensors["connector"] = model.model.connector.modality_projection.proj.weight
    tensors |= {f"low_rank.{name}": value for name, value in low_rank.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().to(torch.bfloat16).contiguous() for name, value in tensors.items()}, path)


def read_delta(path: Path) -> dict[str, torch.Tensor]:
    """What `write_delta` wrote.

    Raises:
        DamagedError: the file is missing or cut short.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedError(
            f"the weights of demo cannot be read: {error}",
            place=str(path),
            hint="pip install --force-reinstall steercache",
        ) from error
    return tensors


def assemble_model(tensors: Mapping[str, torch.Tensor], backbone: Any, tokenizer: Any) -> Any:
    """The complete Idefics3 model in bfloat16."""
    model = make_model(backbone, tokenizer)
    put_tower(model, under(tensors, "vision."), tensors["connector"])
    merge_low_rank(model.model.text_model, under(tensors, "low_rank."))
    return model


def assemble(delta: Path, out: Path) -> None:
    """Writes the checkpoint folder: model, image processor, tokenizer, chat template."""
    tensors = read_delta(delta)
    tokenizer = make_tokenizer(load_smollm2_tokenizer())
    model = assemble_model(tensors, load_smollm2(), tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = end
    model.save_pretrained(out)
    make_processor(tokenizer).save_pretrained(out)


def under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
