"""Messages between clients and server: parsed strictly, refused with a reason. README.md describes them."""

import json
from typing import Any, Literal

from pydantic import ValidationError

from asr_kd.config import Settings
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.runtime.streaming import EndedUtterance
from asr_kd.serve.incoming_audio import SAMPLE_RATES, Encoding
from asr_kd.serve.refusals import Refusal

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


def parse_start(message: str | bytes) -> Start:
    """Parse the first message of a client.

    Raises:
        Refusal: it is another one, or another sample rate.
    """
    if isinstance(message, bytes):
        raise Refusal("malformed", 'audio came first; expected {"type": "start", "sample_rate": 16000}')
    try:
        start = Start.model_validate(_parse_object(message))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors(include_url=False))
        raise Refusal("malformed", f"start: {problems[:300]}") from error
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
    if _parse_object(message) != {"type": "end"}:
        raise Refusal("malformed", 'a text message after the first; expected {"type": "end"} or binary audio')


def _parse_object(message: str) -> dict[str, Any]:
    if len(message) > LONGEST_TEXT:
        raise Refusal("too-large", f"a text message of {len(message)} characters; expected at most {LONGEST_TEXT}")
    try:
        data = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Refusal("malformed", f"a text message is not JSON ({str(error)[:100]})") from error
    if not isinstance(data, dict):
        raise Refusal("malformed", f"a text message holds {type(data).__name__}; expected a JSON object")
    return data


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
