"""What the model reads of an example with sounds: every placeholder replaced by its run of audio tokens, each with its time."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steercache.core.examples import Example, SoundRef
from steercache.core.excerpts import first_line_of
from steercache.core.ids import digest_bytes
from steercache.data.sounds import Sound, SoundError, read_wav
from steercache.models.spec import TokenizerBundle
from steercache.trace.prompt import KNOWN_LAYOUTS, Prompt, as_tensor, splice
from steercache.trace.template import MARK, RenderedTurn, apply_template, own_start

Times = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """What stands for sounds of certain lengths: the text that replaces each placeholder, and each sound's token times (n,)."""

    replacements: tuple[str, ...] = field(repr=False)
    times: tuple[Times, ...] = field(repr=False)


def expand_sounds(example: Example, bundle: TokenizerBundle) -> Prompt:
    """What the processor makes of one example with sounds. Where audio tokens go, and how many, depends on lengths alone.

    Raises:
        SoundError: a sound is broken or too long, the model hears none, or placeholders and sounds differ in number.
        TemplateError: the chat template or the processor changes the text.
    """
    if bundle.family.audio is None or getattr(bundle.config, "audio_config", None) is None:
        raise SoundError(f"model {bundle.spec.name} hears no sounds")
    if example.images:
        raise SoundError("a prompt with pictures and sounds cannot be read")
    raw = [ref.load() for ref in example.sounds]
    heard = [_read(data, ref, bundle) for data, ref in zip(raw, example.sounds, strict=True)]
    turn, mark = _with_placeholders(example, bundle, example.text), audio_token(bundle)
    start = own_start(
        turn.text,
        example.text,
        bundle,
        key=("sounds", example.chat, example.system, len(heard)),
        marked=lambda: _with_placeholders(example, bundle, MARK).text,
    )
    stretch = _stretch(heard, turn.text, bundle)
    if len(stretch.replacements) != turn.text.count(mark):
        raise SoundError(f"{len(heard)} sounds, {turn.text.count(mark)} places for them in the prompt")
    expanded, inserts = splice(turn.text, mark, stretch.replacements)
    return Prompt.of(
        example,
        bundle,
        shown=turn.text,
        start=start,
        expanded=expanded,
        inserts=inserts,
        times=stretch.times,
        image_digests=tuple(digest_bytes(data) for data in raw),
        template_date=turn.template_date,
    )


def sound_inputs(
    sounds: tuple[SoundRef, ...], bundle: TokenizerBundle, *, digests: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The tensors of one sample's sounds, made now: what `EncodedSample.pixels` calls when its batch runs.

    Raises:
        SoundError: a sound cannot be read, or its file has other bytes than when the sample was encoded.
    """
    heard = []
    for ref, digest in zip(sounds, digests, strict=True):
        data = ref.load()
        if digest_bytes(data) != digest:
            raise SoundError(f"the sound {ref.name} has changed since its sample was encoded")
        heard.append(_read(data, ref, bundle))
    if bundle.family.audio_chunks:
        return {"input_features": _in_chunks(heard, bundle)}
    output = _called(bundle, heard, text=audio_token(bundle) * len(heard))
    return {name: as_tensor(output[name]) for name in bundle.family.audio_needs}


def audio_token(bundle: TokenizerBundle) -> str:
    """The token that is repeated for the stretches of a sound."""
    token: str = bundle.tokenizer.convert_ids_to_tokens(bundle.config.audio_token_id)
    return token


def token_ms(bundle: TokenizerBundle) -> float:
    """Milliseconds of sound that one audio token stands for."""
    extractor: Any = bundle.processor.feature_extractor if bundle.processor is not None else None
    return float(bundle.family.frames_per_token * extractor.hop_length * 1000 / extractor.sampling_rate)


def _read(data: bytes, ref: SoundRef, bundle: TokenizerBundle) -> Sound:
    """A sound at the rate of the model. Raises SoundError naming it."""
    try:
        sound = read_wav(data)
    except SoundError as error:
        raise SoundError(f"the sound {ref.name} cannot be read: {error}") from error
    extractor: Any = bundle.processor.feature_extractor if bundle.processor is not None else None
    if sound.rate != extractor.sampling_rate:
        raise SoundError(
            f"the sound {ref.name} has {sound.rate} samples in a second, and the model hears {extractor.sampling_rate}"
        )
    n_longest = None if bundle.family.audio_chunks else _longest(extractor)
    if n_longest is not None and len(sound.samples_n) > n_longest:
        longest = n_longest / extractor.sampling_rate
        raise SoundError(
            f"the sound {ref.name} takes {sound.duration_ms / 1000:g} s, and the model hears {longest:g} s"
        )
    return sound


def _longest(extractor: Any) -> int:
    """Samples of the longest sound that is not cut off: Whisper's own field, or what Gemma's extractors cut at by default."""
    own = getattr(extractor, "n_samples", None)
    return int(own if own is not None else inspect.signature(extractor.__call__).parameters["max_length"].default)


def _in_chunks(heard: Sequence[Sound], bundle: TokenizerBundle) -> torch.Tensor:
    """Voxtral's spectrograms of every begun chunk of every sound, (chunks, mels, steps), by its processor's own method."""
    processor: Any = bundle.processor
    extractor = processor.feature_extractor
    features: torch.Tensor = processor._retrieve_input_features(
        [sound.samples_n for sound in heard],
        extractor.nb_max_frames,
        sampling_rate=extractor.sampling_rate,
        padding=True,
        truncation=False,
        pad_to_multiple_of=extractor.n_samples,
        return_tensors="pt",
    )
    return features


def _stretch(heard: Sequence[Sound], text: str, bundle: TokenizerBundle) -> _Stretch:
    """What stands for these sounds, from the bundle's store or by running the processor."""
    key = ("sounds", *(len(sound.samples_n) for sound in heard))
    if key not in bundle.layouts:
        mark, each_ms = audio_token(bundle), token_ms(bundle)
        if bundle.family.audio_chunks:
            texts = tuple(mark * _n_in_chunks(sound, bundle) for sound in heard)
        else:
            output = _called(bundle, heard, text=text)
            replaced = [item for item in output["text_replacement_offsets"][0] if item["type"] == "audio"]
            texts = tuple(str(item["replacement"]) for item in replaced)
        if len(bundle.layouts) >= KNOWN_LAYOUTS:
            bundle.layouts.clear()
        times = tuple((np.arange(one.count(mark)) * each_ms).astype(np.int32) for one in texts)
        bundle.layouts[key] = _Stretch(replacements=texts, times=times)
    found: _Stretch = bundle.layouts[key]
    return found


def _n_in_chunks(sound: Sound, bundle: TokenizerBundle) -> int:
    """Audio tokens of a sound of which every begun chunk (30 s) is heard whole, filled up with silence."""
    extractor: Any = bundle.processor.feature_extractor if bundle.processor is not None else None
    n_chunks = -(-len(sound.samples_n) // extractor.n_samples)
    return int(n_chunks * (extractor.nb_max_frames // bundle.family.frames_per_token))


def _called(bundle: TokenizerBundle, heard: Sequence[Sound], *, text: str) -> Mapping[str, Any]:
    """The processor's own output. Raises SoundError with its reason."""
    processor: Any = bundle.processor
    samples = [sound.samples_n for sound in heard]
    try:
        output: Mapping[str, Any] = processor(
            text=[text],
            audio=samples,
            sampling_rate=processor.feature_extractor.sampling_rate,
            return_text_replacement_offsets=True,
        )
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise SoundError(f"the processor refuses it: {first_line_of(error)}") from error
    return output


def _with_placeholders(example: Example, bundle: TokenizerBundle, text: str) -> RenderedTurn:
    n, mark = len(example.sounds), audio_token(bundle)
    if example.chat:
        return apply_template(bundle, text, system=example.system, n_sounds=n)
    written = example.text.count(mark)
    if written not in (0, n):
        raise SoundError(f"{n} sounds, {written} times {mark} in the text")
    bare = text if written else (bundle.family.audio or "").format(audio=mark) * n + text
    return RenderedTurn(text=bare, template_date=None)
