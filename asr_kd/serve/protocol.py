"""What passes between clients and server: messages, parsed strictly, audio, and refusals with their codes.

README.md beside this file describes the protocol."""

import json
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from asr_kd.audio.waveform_reader import StreamResampler
from asr_kd.config import S, Settings
from asr_kd.errors import AudioError
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.runtime.streaming import EndedUtterance, check_samples

CLOSE_CODES = {
    "malformed": 1007,
    "sample-rate": 1003,
    "too-large": 1009,
    "unauthorized": 1008,
    "throttled": 1008,
    "rate": 1008,
    "too-long": 1008,
    "idle": 1008,
    "not-reading": 1008,
    "stopping": 1001,
    "too-many-clients": 1013,
    "busy": 1013,
    "internal": 1011,
}
"""Reason of a refusal or end → code (RFC 6455) with which the connection is closed."""


class Refusal(Exception):
    """The server ends a stream.

    Args:
        code: a key of `CLOSE_CODES`.
        message: what was found and what is expected.
        finishes: whether audio sent so far is still decoded and its results are sent.
    """

    def __init__(self, code: str, message: str, *, finishes: bool = False) -> None:
        self.code, self.message, self.finishes = code, message, finishes
        super().__init__(f"{code}: {message}")

    @property
    def close_code(self) -> int:
        """Code with which the connection is closed."""
        return CLOSE_CODES[self.code]


Encoding = Literal["s16le", "f32le", "mulaw", "alaw"]
"""Little-endian integers or floats; G.711 µ-law or A-law."""

WIDTHS: dict[Encoding, int] = {"s16le": 2, "f32le": 4, "mulaw": 1, "alaw": 1}
"""Bytes of a sample."""

SAMPLE_RATES = (8_000, SAMPLE_RATE)


class IncomingAudio:
    """Decodes the messages of one stream, at one of `SAMPLE_RATES`, to 16 kHz."""

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


PROTOCOL = 1
LONGEST_TEXT = 4_096
"""Longest text message, in bytes; audio is sent in binary messages."""


class Start(Settings):
    """The first message: sample rate, encoding and token."""

    type: Literal["start"]
    protocol: Literal[1] = 1
    sample_rate: int
    encoding: Encoding = "s16le"
    token: str | None = None


class End(Settings):
    """The last message: no more audio follows."""

    type: Literal["end"]


def parse_start(message: str | bytes) -> Start:
    """Parse the first message of a client.

    Raises:
        Refusal: it is another one, or another sample rate.
    """
    if isinstance(message, bytes):
        raise Refusal("malformed", 'audio came first; expected {"type": "start", "sample_rate": 16000}')
    start = _parse(Start, message)
    if start.sample_rate not in SAMPLE_RATES:
        rates = " or ".join(map(str, SAMPLE_RATES))
        message = f"sample_rate is {start.sample_rate}; expected {rates}: resample before sending"
        raise Refusal("sample-rate", message)
    return start


def parse_end(message: str) -> None:
    """Parse the only text message after the first.

    Raises:
        Refusal: it is another one.
    """
    _parse(End, message)


def _parse(kind: type[S], message: str) -> S:
    if len(message) > LONGEST_TEXT:
        raise Refusal("too-large", f"a text message of {len(message)} characters; expected at most {LONGEST_TEXT}")
    try:
        return kind.model_validate_json(message)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, (".".join(map(str, found["loc"])), found["msg"])))
            for found in error.errors(include_url=False)
        )
        raise Refusal("malformed", f"expected {kind.__name__.lower()}: {problems[:300]}") from error


def ready_message(model: str, chunk_ms: int, lookahead_ms: int, limits: dict[str, float]) -> str:
    """Message: the stream is open."""
    return _message(
        "ready", protocol=PROTOCOL, model=model, sample_rate=SAMPLE_RATE, chunk_ms=chunk_ms, lookahead_ms=lookahead_ms,
        limits=limits,
    )  # fmt: skip


def partial_message(text: str, decoded_seconds: float, lag_seconds: float) -> str:
    """Message: text of the current utterance, which may change."""
    return _message("partial", text=text, decoded=round(decoded_seconds, 3), lag_ms=round(1000 * lag_seconds, 1))


def final_message(utterance: EndedUtterance, decoded_seconds: float, lag_seconds: float) -> str:
    """Message: an ended utterance, which does not change."""
    words = [
        {
            "word": word.text,
            "start": word.start_seconds,
            "end": word.end_seconds,
            "confidence": round(word.confidence, 3),
        }
        for word in utterance.words
    ]
    start, end = round(utterance.start_seconds, 3), round(utterance.end_seconds, 3)
    fields = {"text": utterance.text, "words": words, "start": start, "end": end, "rule": utterance.rule}
    return _message("final", **fields, decoded=round(decoded_seconds, 3), lag_ms=round(1000 * lag_seconds, 1))


def done_message(seconds: float) -> str:
    """Message: all results were sent."""
    return _message("done", seconds=round(seconds, 3))


def stopping_message(seconds: float) -> str:
    """Message: the server will finish this stream in so many seconds."""
    return _message("stopping", seconds=seconds)


def error_message(refusal: Refusal) -> str:
    """Message: why the stream ends."""
    return _message("error", code=refusal.code, message=refusal.message)


def _message(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields}, ensure_ascii=False)
