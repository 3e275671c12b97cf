"""What passes between clients and server: messages, parsed strictly, audio, and refusals with their codes.

README.md beside this file describes the protocol."""

import io
import json
from typing import Any, Literal

import numpy as np
import soundfile
from pydantic import ValidationError

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


def _table(subtype: str) -> np.ndarray:
    """Sample of each byte, [256] float32."""
    every = io.BytesIO(bytes(range(256)))
    table, _ = soundfile.read(every, dtype="float32", format="RAW", subtype=subtype, channels=1, samplerate=8_000)
    return np.asarray(table)


G711 = {"mulaw": _table("ULAW"), "alaw": _table("ALAW")}
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
    start = parse(Start, message)
    if start.sample_rate not in SAMPLE_RATES:
        rates = " or ".join(map(str, SAMPLE_RATES))
        message = f"sample_rate is {start.sample_rate}; expected {rates}: resample before sending"
        raise Refusal("sample-rate", message)
    return start


def parse(kind: type[S], message: str) -> S:
    """Parse a text message of a client.

    Raises:
        Refusal: it is another one, or too long.
    """
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


def message_of(kind: str, **fields: Any) -> str:
    """Return a message to a client: ready, partial, final, done, stopping or error, with its fields."""
    return json.dumps({"type": kind, **fields}, ensure_ascii=False)


def result_message(kind: str, decoded_seconds: float, lag_seconds: float, **fields: Any) -> str:
    """Return a partial or final: text that may still change, or that does not."""
    return message_of(kind, **fields, decoded=round(decoded_seconds, 3), lag_ms=round(1000 * lag_seconds, 1))


def utterance_fields(utterance: EndedUtterance) -> dict[str, Any]:
    """Return the fields of an ended utterance in its final."""
    words = [
        {"word": text, "start": start, "end": end, "confidence": round(confidence, 3)}
        for text, start, end, confidence in utterance.words
    ]
    start, end = round(utterance.start_seconds, 3), round(utterance.end_seconds, 3)
    return {"text": utterance.text, "words": words, "start": start, "end": end, "rule": utterance.rule}
