"""Audio of a client: 16-bit or float samples, or the telephone's G.711 bytes, at 8 or 16 kHz."""

from typing import Literal

import numpy as np

from asr_kd.audio.stream_resampler import StreamResampler
from asr_kd.errors import AudioError
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.runtime.streaming import check_samples
from asr_kd.serve.refusals import Refusal

Encoding = Literal["s16le", "f32le", "mulaw", "alaw"]
"""Little-endian integers or floats; G.711 µ-law or A-law."""

WIDTHS: dict[Encoding, int] = {"s16le": 2, "f32le": 4, "mulaw": 1, "alaw": 1}
"""Bytes of a sample."""

SAMPLE_RATES = (8_000, SAMPLE_RATE)


class IncomingAudio:
    """Decodes the messages of one stream to 16 kHz.

    Args:
        encoding: of the messages.
        sample_rate: of the messages, one of `SAMPLE_RATES`.
    """

    def __init__(self, encoding: Encoding, sample_rate: int) -> None:
        self._encoding, self._resampler = encoding, StreamResampler(sample_rate, SAMPLE_RATE)

    def decode(self, message: bytes) -> np.ndarray:
        """Return the samples [S] that a message completes.

        Raises:
            Refusal: see `samples_of`.
        """
        return self._resampler.push(samples_of(message, self._encoding))

    def finish(self) -> np.ndarray:
        """Return the last samples [S]."""
        return self._resampler.push(np.zeros(0, dtype=np.float32), last=True)


def samples_of(message: bytes, encoding: Encoding) -> np.ndarray:
    """Return binary audio of one channel as float32 [S] in [−1, 1].

    Raises:
        Refusal: not a whole number of samples, or floats that are not audio.
    """
    width = WIDTHS[encoding]
    if len(message) % width:
        raise Refusal("malformed", f"a message of {len(message)} bytes; expected whole samples of {width}")
    if encoding in G711:
        return G711[encoding][np.frombuffer(message, dtype=np.uint8)]
    if encoding == "s16le":
        return np.frombuffer(message, dtype="<i2").astype(np.float32) / 32_768
    samples = np.frombuffer(message, dtype="<f4").astype(np.float32)
    try:
        check_samples(samples)
    except AudioError as error:
        raise Refusal("malformed", str(error)) from error
    return samples


def _mu_law(byte: int) -> int:
    """Decode a byte of ITU-T G.711 µ-law to 16 bits."""
    byte = ~byte & 0xFF
    value = (((byte & 0x0F) << 3) + 0x84 << ((byte & 0x70) >> 4)) - 0x84
    return -value if byte & 0x80 else value


def _a_law(byte: int) -> int:
    """Decode a byte of ITU-T G.711 A-law to 16 bits."""
    byte ^= 0x55
    segment, value = (byte & 0x70) >> 4, ((byte & 0x0F) << 4) + 8
    value = value if segment == 0 else value + 0x100 << segment - 1
    return value if byte & 0x80 else -value


G711 = {
    name: np.array([decode(byte) for byte in range(256)], dtype=np.float32) / 32_768
    for name, decode in {"mulaw": _mu_law, "alaw": _a_law}.items()
}
"""Byte → sample."""
