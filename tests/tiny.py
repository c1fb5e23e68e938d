"""A random Llama of a few kilobytes with a word tokenizer: a real checkpoint folder that loads like any other."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

logging.disable_progress_bar()

SENTENCE_PARTS = (
    "the a cat dog box ball is was on under beside near table chair red two three five small left right of and ran"
)
WORDS = SENTENCE_PARTS.split()


def write_tiny_model(folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, n_layers: int = 3) -> Path:
    """Save the model and its tokenizer into `folder`."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "<unk>", *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def sentences(n: int, *, seed: int = 0) -> list[str]:
    """`n` different word sequences of 3 to 12 words; the second word is never the first one again, so it can be an anchor."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, None] = {}
    while len(made) < n:
        length = int(torch.randint(3, 13, (1,), generator=generator))
        words = torch.randint(0, len(WORDS), (length,), generator=generator).tolist()
        if words[0] != words[1]:
            made[" ".join(WORDS[w] for w in words)] = None
    return list(made)
