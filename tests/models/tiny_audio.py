"""Small random models that hear, with their ordinary processors, and sounds to play to them."""

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from steercache.core.examples import SoundRef
from steercache.core.shipped import shipped_folder
from tests.models import tiny_gemma, tiny_gemma3n
from tests.models.tiny import CORPUS
from tests.models.tiny_images import CHAT, LLAMA, train_tokenizer

RATE, HOP, LONGEST_S = 16_000, 160, 2
MELS, WIDTH, N_LAYERS = 8, 32, 3
MARKS = ["<pad>", "<s>", "</s>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|user|>", "<|assistant|>", "<|end|>"]
VOXTRAL_TEMPLATE = (shipped_folder("manifests") / "models" / "voxtral.jinja").read_text(encoding="utf-8")
TEMPLATE = CHAT.replace("'image'", "'audio'").replace("PLACEHOLDER", "<|audio_bos|><|AUDIO|><|audio_eos|>")


def write_tiny_audio(folder: Path, *, seed: int = 0) -> Path:
    """Save it as `save_pretrained` does. It hears two seconds; a token stands for 40 ms, as in the published model."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS * 3, trainers.BpeTrainer(vocab_size=380, special_tokens=MARKS, initial_alphabet=alphabet)
    )
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", bos_token="<s>", audio_token="<|AUDIO|>"
    )
    extractor = tf.WhisperFeatureExtractor(
        feature_size=MELS, sampling_rate=RATE, hop_length=HOP, chunk_length=LONGEST_S, return_attention_mask=True
    )
    processor = tf.Qwen2AudioProcessor(extractor, tokenizer, chat_template=TEMPLATE)
    config = tf.Qwen2AudioConfig(
        audio_config={
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "num_mel_bins": MELS,
            "max_source_positions": LONGEST_S * RATE // HOP // 2,
        },
        text_config=LLAMA | {"model_type": "qwen2"},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(seed)
    model = tf.AutoModelForMultimodalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def voxtral() -> tuple[Any, Any]:
    """Voxtral's processor with a tokenizer of Mistral's marks, and its configuration. It hears chunks of two seconds."""
    marks = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<SPECIAL_{i}>" for i in range(5, 24))]
    marks += ["[AUDIO]", "[BEGIN_AUDIO]", "<pad>"]  # 24 and 25, as in the published vocabulary
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=marks, initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=VOXTRAL_TEMPLATE,
    )
    extractor = tf.WhisperFeatureExtractor(
        feature_size=MELS, sampling_rate=RATE, hop_length=HOP, chunk_length=LONGEST_S
    )
    config = tf.VoxtralConfig(
        audio_config={
            "hidden_size": 16,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_mel_bins": MELS,
            "max_source_positions": LONGEST_S * RATE // HOP // 2,
        },
        text_config=LLAMA | {"model_type": "llama"},
        audio_token_id=24,
    )
    return tf.VoxtralProcessor(extractor, tokenizer), config


def write_hearing(family: str, folder: Path) -> Path:
    """Save a random model of any family that hears."""
    if family == "qwen2_audio":
        return write_tiny_audio(folder)
    if family == "voxtral":
        return save_hearing(*voxtral(), folder)
    tokenizer = train_tokenizer(family)
    tokenizer.chat_template = None
    processor, config = (
        tiny_gemma.gemma4(tokenizer, hears=True) if family == "gemma4" else tiny_gemma3n.gemma3n(tokenizer)
    )
    processor.chat_template = processor.chat_template.replace("'image'", "'audio'").replace("image", "audio")
    return save_hearing(processor, config, folder)


def save_hearing(processor: Any, config: Any, folder: Path) -> Path:
    """Save a processor and a random model of a configuration."""
    torch.manual_seed(0)
    model = tf.AutoModelForMultimodalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def sound(
    seconds: float, *, seed: int = 0, click_s: float | None = None, rate: int = RATE, more_s: Any = ()
) -> SoundRef:
    """Soft noise as a WAV file of 16 bits, with loud clicks of 20 ms."""
    values = np.random.default_rng(seed).normal(size=int(seconds * rate)) * 300
    for one_s in (*([] if click_s is None else [click_s]), *more_s):
        at = int(one_s * rate)
        values[at : at + rate // 50] += 20_000 * np.sign(np.sin(np.arange(rate // 50)))[: len(values) - at]
    stream = io.BytesIO()
    with wave.open(stream, "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(rate)
        opened.writeframes(values.astype("<i2").tobytes())
    return SoundRef(name=f"{seconds:g}s.wav", load=stream.getvalue)


def samples_of(ref: SoundRef) -> Any:
    """What scipy would read, as floats."""
    with wave.open(io.BytesIO(ref.load())) as opened:
        return np.frombuffer(opened.readframes(opened.getnframes()), dtype="<i2").astype(np.float32) / 32_768
