"""When an utterance of a stream has ended: the client's three rules (sherpa-onnx 2.0.1, `endpoint.cc`, after Kaldi's).

Knows frames and seconds; nothing of what is said.
"""

from typing import NamedTuple

from pydantic import Field

from asr_kd.config import Settings


class EndpointRule(NamedTuple):
    """An utterance has ended when all of it holds."""

    must_have_text: bool  # something was decoded before the silence
    min_trailing_silence_seconds: float
    min_utterance_seconds: float


class EndpointSettings(Settings):
    """The three rules; an utterance ends when one of them says so. Defaults are the client's."""

    rule1_min_trailing_silence: float = Field(2.4, ge=0)
    """Seconds of silence that end an utterance in which nothing was said."""
    rule2_min_trailing_silence: float = Field(1.2, ge=0)
    """Seconds of silence that end an utterance in which something was."""
    rule3_min_utterance_length: float = Field(20.0, ge=0)
    """Seconds after which it ends in any case."""

    @property
    def rules(self) -> tuple[EndpointRule, ...]:
        """As the client applies them."""
        return (
            EndpointRule(False, self.rule1_min_trailing_silence, 0.0),
            EndpointRule(True, self.rule2_min_trailing_silence, 0.0),
            EndpointRule(False, 0.0, self.rule3_min_utterance_length),
        )


def activated_rule(settings: EndpointSettings, utterance_seconds: float, trailing_silence_seconds: float) -> int | None:
    """The first rule, 1 to 3, that ends an utterance; None when it goes on.

    Args:
        settings: the rules.
        utterance_seconds: of audio that was decoded, silence included.
        trailing_silence_seconds: since the last frame that was not blank.
    """
    for number, rule in enumerate(settings.rules, start=1):
        if (
            (utterance_seconds > trailing_silence_seconds or not rule.must_have_text)
            and trailing_silence_seconds >= rule.min_trailing_silence_seconds
            and utterance_seconds >= rule.min_utterance_seconds
        ):
            return number
    return None
