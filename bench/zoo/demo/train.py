"""The whole training of *demo*: tower, then language side, then the file that ships. An interrupted training is resumed."""

from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from bench.zoo.checkpoints import load_state
from bench.zoo.demo.language import LanguageRecipe, make_pupil, train_language, weights_of
from bench.zoo.demo.packing import tokenizer_call
from bench.zoo.demo.targets import Dictionary, make_dictionary
from bench.zoo.demo.tower import TRAIN_SEED, TowerRecipe, train_tower
from steercache.data.scenes import COLOURS, SHAPES
from steercache.zoo.demo.assemble import (
    make_model,
    make_tokenizer,
    put_tower,
    read_delta,
    under,
    write_delta,
)
from steercache.zoo.smollm2 import load_smollm2, load_smollm2_tokenizer

PLACE_SEED: Final = 5


def words_of(backbone: Any, tokenizer: Any) -> Dictionary:
    """The directions of the image tokens, from SmolLM2's embeddings of the colour and shape words."""

    def ids(words: tuple[str, ...]) -> list[int]:
        return [tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in words]

    embedding = backbone.model.embed_tokens.weight.detach()
    return make_dictionary(embedding, ids(COLOURS), ids(SHAPES), seed=PLACE_SEED)


def train_demo(out: Path, *, shipped: Path | None = None, recipe: LanguageRecipe | None = None) -> None:
    """Writes `out/delta.safetensors`; checkpoints of both stages lie beside it.

    With `shipped`, tower and connector are taken over from that file and only the language side is trained.
    A recipe of no steps writes what the last checkpoint holds.
    """
    backbone = load_smollm2()
    tokenizer = make_tokenizer(load_smollm2_tokenizer())
    model = make_model(backbone, tokenizer)
    words = words_of(backbone, tokenizer)
    del backbone
    if shipped is None:
        first_stage(model, words, out)
    else:
        start = read_delta(shipped)
        put_tower(model, under(start, "vision."), start["connector"])
    pupil = make_pupil(model, tokenizer_call(tokenizer))
    train_language(pupil, out, recipe or LanguageRecipe())
    write_delta(out / "delta.safetensors", model=model, low_rank=weights_of(pupil))


def first_stage(model: Any, words: Dictionary, out: Path) -> None:
    """Trains tower and connector from random weights in float32, and puts them into the model."""
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector, Idefics3VisionTransformer

    torch.manual_seed(TRAIN_SEED)
    family: Any = Idefics3VisionTransformer
    projector: Any = Idefics3Connector
    vision = family._from_config(model.config.vision_config, dtype=torch.float32, attn_implementation="eager")
    connector = projector(model.config)
    nn.init.normal_(connector.modality_projection.proj.weight, std=0.002 * words.scale)
    train_tower(vision, connector, words, out, TowerRecipe())
    done = load_state(out / "tower.pt")
    parts = {} if done is None else done["parts"]  # written by train_tower just now
    tower = {name.removeprefix("vision."): value for name, value in parts.items() if name.startswith("vision.")}
    put_tower(model, tower, parts["connector.modality_projection.proj.weight"])
