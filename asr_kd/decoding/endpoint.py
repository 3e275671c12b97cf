"""Endpoint rules: when an utterance of a stream has ended.

These are the three rules of sherpa-onnx 2.0.1 (`endpoint.cc`), which follow Kaldi's.
"""

from typing import NamedTuple

import numpy as np
from pydantic import Field

from asr_kd.config import Settings

FRAME_SHIFT_SECONDS = np.float32(0.04)
"""Duration of a decoded frame; the client computes in float32, and so do the rules here."""


class EndpointRule(NamedTuple):
    """One rule; an utterance has ended when all its conditions hold."""

    must_have_text: bool  # a token was decoded before the silence
    min_trailing_silence_seconds: float
    min_utterance_seconds: float


class EndpointSettings(Settings):
    """The three rules; an utterance ends when one of them applies. Defaults are those of sherpa-onnx."""

    rule1_min_trailing_silence: float = Field(2.4, ge=0)
    """Seconds of silence that end an utterance without any token."""
    rule2_min_trailing_silence: float = Field(1.2, ge=0)
    """Seconds of silence that end an utterance with a token."""
    rule3_min_utterance_length: float = Field(20.0, ge=0)
    """Seconds after which an utterance ends in any case."""

    @property
    def rules(self) -> tuple[EndpointRule, ...]:
        return (
            EndpointRule(False, self.rule1_min_trailing_silence, 0.0),
            EndpointRule(True, self.rule2_min_trailing_silence, 0.0),
            EndpointRule(False, 0.0, self.rule3_min_utterance_length),
        )


def activated_rule(settings: EndpointSettings, num_frames: int, trailing_blanks: int) -> int | None:
    """Return the first rule, 1 to 3, that ends an utterance; None when it continues.

    Args:
        num_frames: decoded frames of 40 ms, silence included.
        trailing_blanks: frames since the last frame that was not blank.
    """
    utterance, silence = (np.float32(frames) * FRAME_SHIFT_SECONDS for frames in (num_frames, trailing_blanks))
    for number, rule in enumerate(settings.rules, start=1):
        if (
            (utterance > silence or not rule.must_have_text)
            and silence >= np.float32(rule.min_trailing_silence_seconds)
            and utterance >= np.float32(rule.min_utterance_seconds)
        ):
            return number
    return None
