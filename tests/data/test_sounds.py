"""WAV files of every width of samples, against scipy; what cannot be read is refused."""

import io
import wave

import numpy as np
import pytest
import scipy.io.wavfile

from steercache.data.sounds import SoundError, read_wav


def wav(values: np.ndarray, *, width: int = 2, rate: int = 16_000) -> bytes:
    """Bytes of a WAV file; integers (n,) or (n, channel)."""
    frames = values if values.ndim == 2 else values[:, None]
    stream = io.BytesIO()
    with wave.open(stream, "wb") as opened:
        opened.setnchannels(frames.shape[1])
        opened.setsampwidth(width)
        opened.setframerate(rate)
        whole = frames + 128 if width == 1 else frames
        opened.writeframes(b"".join(int(v).to_bytes(width, "little", signed=width > 1) for v in whole.ravel()))
    return stream.getvalue()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_are_those_that_scipy_reads(width: int, channels: int) -> None:
    top = 2 ** (8 * width - 1)
    values = np.random.default_rng(width).integers(-top, top, size=(50, channels))
    data = wav(values, width=width, rate=8000)
    rate, read = scipy.io.wavfile.read(io.BytesIO(data))
    scale = {1: 128.0, 2: 2.0**15}.get(width, 2.0**31)  # scipy shifts 24 bits up
    expected = (read.astype(np.float64) - (128 if width == 1 else 0)) / scale
    sound = read_wav(data)
    assert sound.rate == rate == 8000
    assert sound.samples_n.dtype == np.float32
    np.testing.assert_allclose(sound.samples_n, expected.reshape(50, channels).mean(axis=1), atol=1e-7)


def float_wav() -> bytes:
    stream = io.BytesIO()
    scipy.io.wavfile.write(stream, 16_000, np.zeros(8, dtype=np.float32))
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"not a sound", wav(np.zeros(0)), wav(np.zeros(80))[:-7], float_wav()],
    ids=["nothing", "text", "empty", "cut off", "floats"],
)
def test_what_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(SoundError):
        read_wav(data)
