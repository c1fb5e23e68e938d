"""The tokenizer of *tiny*: byte-level BPE trained on its own sentences, so that the words of the scenes are one token each.

Any other text falls apart into bytes; nothing is unknown. PaliGemma's 1,152 place and segment tokens follow, as its processor
demands; the model has rows for them and never sees them.
"""

from typing import Any, Final

import numpy as np

from bench.zoo.tiny.sentences import sentence

N_MERGED: Final = 640  # tokens before PaliGemma's extra ones
SPECIAL: Final = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>")
SEED: Final = 20_261_130
IMAGE_SIZE: Final = 60
PATCH: Final = 12
N_IMAGE_TOKENS: Final = (IMAGE_SIZE // PATCH) ** 2
PREFIX: Final = "answer en "


def train_tokenizer(n_sentences: int = 6000) -> Any:
    """A fast Gemma-like tokenizer: <pad>, <eos>, <bos>, <unk>, <image>, then bytes and merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(SEED)
    fast: Any = PreTrainedTokenizerFast
    raw: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B:1", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=N_MERGED,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [" " + PREFIX, PREFIX]  # the task prefix, seen often enough to be merged
    raw.train_from_iterator([*(sentence(rng) for _ in range(n_sentences)), *words * 500], trainer)
    return fast(
        tokenizer_object=raw,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def make_processor(tokenizer: Any) -> Any:
    """The ordinary PaliGemma processor over 60 x 60 pictures; adds the extra tokens to the tokenizer."""
    from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

    family: Any = PaliGemmaProcessor
    image_processor: Any = SiglipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    image_processor.image_seq_length = N_IMAGE_TOKENS
    return family(image_processor, tokenizer)
