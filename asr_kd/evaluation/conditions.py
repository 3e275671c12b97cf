"""Conditions of the robustness evaluation: noise, rooms, telephone, codecs and speed applied to the same recordings.

A condition is written KIND:VALUE. What it does to an utterance depends on the utterance's id and the condition alone,
so every system gets the same samples, in every run.

Shapes: S samples.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from asr_kd.features.augment import speed_perturb
from asr_kd.features.perturb import (
    add_noise,
    babble,
    change_gain,
    generator_for,
    pink_noise,
    reverberate,
    room_response,
    telephone,
    through_codec,
)

STANDARD = (
    *("babble:20", "babble:10", "babble:5", "pink:20", "pink:10", "pink:5", "reverb:0.5"),
    *("telephone:mu-law", "telephone:gsm", "codec:opus", "codec:mp3", "speed:0.9", "speed:1.1"),
)
"""What `robustness: true` stands for."""

BABBLE_UTTERANCES = 5
"""Other utterances of the set that babble is made of."""

OtherUtterances = Callable[[int], Sequence[Tensor]]
"""Returns the given number of other utterances, [S] each."""

NUMBERS = {"babble": (-20, 60), "pink": (-20, 60), "reverb": (0.05, 5), "speed": (0.5, 2), "gain": (-60, 60)}
"""Kinds with a number: babble and pink noise, decibels below the speech; a room, its RT60 in seconds; speed, a factor
(tempo and pitch); gain, decibels."""
NAMES = {"telephone": ("mu-law", "gsm"), "codec": ("mu-law", "gsm", "opus", "mp3")}
"""Kinds with a name: 300 to 3,400 Hz at 8 kHz and then a coding; a coding alone."""


class Condition(NamedTuple):
    """One condition."""

    kind: str
    value: str

    @property
    def name(self) -> str:
        """As a recipe writes it."""
        return f"{self.kind}:{self.value}"


def parse_condition(text: str) -> Condition:
    """A condition by its name.

    Raises:
        ValueError: no such kind, or a value that does not fit it.
    """
    kind, _, value = text.partition(":")
    if kind in NAMES and value in NAMES[kind]:
        return Condition(kind, value)
    if kind in NUMBERS:
        low, high = NUMBERS[kind]
        try:
            if low <= float(value) <= high:
                return Condition(kind, value)
        except ValueError:
            pass  # refused below, with the allowed range
        raise ValueError(f"the condition {text!r} needs a number from {low} to {high} behind its colon")
    written = [f"{name}:NUMBER" for name in NUMBERS] + [
        f"{name}:{choice}" for name, choices in NAMES.items() for choice in choices
    ]
    raise ValueError(f"the condition {text!r} must be one of {', '.join(written)}")


def perturbed(waveform: Tensor, condition: Condition, utterance_id: str, others: OtherUtterances) -> Tensor:
    """A waveform [S] under a condition; as long as before, unless its speed changes.

    Args:
        utterance_id: with the condition it decides all that is drawn.
        others: gives what babble is made of.
    """
    kind, value = condition
    generator = generator_for("robustness", utterance_id, condition.name)
    if kind == "babble":
        return add_noise(waveform, babble(others(BABBLE_UTTERANCES), len(waveform), generator), float(value))
    if kind == "pink":
        return add_noise(waveform, pink_noise(len(waveform), generator), float(value))
    if kind == "reverb":
        return reverberate(waveform, room_response(float(value), generator))
    if kind == "telephone":
        return telephone(waveform, "gsm" if value == "gsm" else "mu-law")
    if kind == "codec":
        return through_codec(waveform, value)  # type: ignore[arg-type]  # checked by parse_condition
    if kind == "speed":
        return speed_perturb(waveform, float(value))
    return change_gain(waveform, float(value))
