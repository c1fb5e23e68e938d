"""Sounds of a data set: WAV files with integer samples, read with the standard library."""

import io
import wave
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


class SoundError(Exception):
    """A sound cannot be read, or not as the model wants it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sound:
    """One channel: `samples_n` float32 in [-1, 1), `rate` of them in a second."""

    samples_n: npt.NDArray[np.float32] = field(repr=False)
    rate: int

    @property
    def duration_ms(self) -> int:
        """Milliseconds, rounded down."""
        return len(self.samples_n) * 1000 // self.rate


def read_wav(data: bytes) -> Sound:
    """The sound in the bytes of a WAV file; several channels become their mean.

    Raises:
        SoundError: it is no WAV file, is cut off or empty, or its samples are not integers of 8, 16, 24 or 32 bits.
    """
    try:
        with wave.open(io.BytesIO(data)) as opened:
            n_channels, width, rate = opened.getnchannels(), opened.getsampwidth(), opened.getframerate()
            n_frames, raw = opened.getnframes(), opened.readframes(opened.getnframes())
    except (wave.Error, EOFError, ValueError, ArithmeticError) as error:
        raise SoundError(f"it is no WAV file with integer samples: {error}") from error
    if width not in (1, 2, 3, 4) or n_channels < 1 or rate < 1:
        raise SoundError(f"{n_channels} channels of {8 * width} bits, {rate} samples in a second, cannot be read")
    if not n_frames or len(raw) != n_frames * n_channels * width:
        raise SoundError("it is empty or cut off")
    values = _integers(raw, width).reshape(-1, n_channels) / float(2 ** (8 * width - 1))
    return Sound(samples_n=values.mean(axis=1).astype(np.float32), rate=rate)


def _integers(raw: bytes, width: int) -> npt.NDArray[np.float64]:
    """Signed samples; WAV stores those of 8 bits unsigned, all others in little-endian order."""
    if width == 1:
        return np.frombuffer(raw, dtype=np.uint8).astype(np.float64) - 128
    if width == 3:
        parts = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3).astype(np.int32)
        whole = parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16
        return np.where(whole >= 2**23, whole - 2**24, whole).astype(np.float64)
    return np.frombuffer(raw, dtype=f"<i{width}").astype(np.float64)
