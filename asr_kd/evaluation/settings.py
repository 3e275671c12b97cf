"""Settings of an evaluation and of its page, and the conditions of the robustness evaluation, written KIND:VALUE."""

from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field, field_validator

from asr_kd.config import Settings
from asr_kd.decoding.settings import DecodingSettings
from asr_kd.models.settings import SavedContext
from asr_kd.text.normalize import ScoringNormalizer

STANDARD = (
    *("babble:20", "babble:10", "babble:5", "pink:20", "pink:10", "pink:5", "reverb:0.5"),
    *("telephone:mu-law", "telephone:gsm", "codec:opus", "codec:mp3", "speed:0.9", "speed:1.1"),
    *("lead:0.3", "lead:1", "gain:-20", "gain:-40", "gain:10", "rate:8000"),
)
"""What `robustness: true` stands for."""

NUMBERS = {
    **{"babble": (-20, 60), "pink": (-20, 60), "reverb": (0.05, 5), "speed": (0.5, 2)},
    **{"gain": (-60, 60), "lead": (0, 10), "rate": (4_000, 16_000)},
}
"""Kinds with a number: babble and pink noise, decibels below the speech; a room, its RT60 in seconds; speed, a factor
(tempo and pitch); gain, decibels; lead, seconds of zeros in front; rate, Hz of a recording at a lower sample rate."""
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


class ReportSettings(Settings):
    """The page that shows an evaluation, report/index.html."""

    utterances: int = Field(40, ge=0, le=1_000)
    """Utterances shown with waveform, spectrogram and token posteriors; the others are shown as text."""
    audio: bool = True
    """Whether these can be played. The page then contains recordings: consider who may receive it."""
    max_mb: float = Field(12.0, gt=0, le=500)
    """Largest page, megabytes. Beyond it, audio and pictures are left out first, then utterances without errors."""


class EvaluationSettings(Settings):
    """How systems are scored and timed, and what else is measured; the matrix and robustness only on request."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"max_excluded_share"})

    sample_utterances: int = Field(50, ge=0)
    """Utterances of each set, from the shortest to the longest, on which emission latency, stability of partial
    results, trailing silence and agreement of frames are measured; 0 measures none of them."""
    silence_seconds: float = Field(2.0, ge=0, le=60)
    """Silence appended to an utterance to count the words that a system inserts in it; 0 skips the measurement."""
    stream_silence_seconds: float = Field(8.0, ge=0, le=600)
    """Silence after an utterance in a live stream, whose endpoints start new utterances, to count the words that a
    system inserts in it, on ten utterances of the sample; 0 skips the measurement."""
    memory: bool = True
    """Whether each system is opened once more, in its own process, to measure its memory."""
    matrix: tuple[SavedContext, ...] = ()
    """Chunk, left and right context (0 where it is left out), in frames of 40 ms, that every streaming model is
    evaluated with; empty: only its own."""
    robustness: bool | tuple[str, ...] = False
    """Conditions that every system is evaluated under, such as [pink:10, babble:5, reverb:0.5, telephone:mu-law,
    codec:opus, speed:0.9, lead:0.3, gain:-20]; true: a standard set of 19."""
    sweep_utterances: int = Field(0, ge=0)
    """Utterances of each set for the matrix and for robustness, from the shortest to the longest; 0: all."""
    normalizer: ScoringNormalizer = "librispeech"
    """Applied to references and hypotheses of every system alike, and stated in the report."""
    decoding: DecodingSettings = DecodingSettings()
    """How every system's posteriors become text."""
    bootstrap_samples: int = Field(2_000, ge=200, le=100_000)
    """Bootstrap resamples of the intervals."""
    bootstrap_seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""
    rtf_utterances: int = Field(20, ge=0)
    """Utterances that are timed one by one on one thread; 0 measures no real-time factor."""
    batch_seconds: float = Field(60.0, gt=0)
    """Audio in one batch, padding included."""
    max_excluded_share: float = Field(0.1, ge=0, le=1)
    """Evaluation stops when a larger share of a test set cannot be used."""
    report: ReportSettings = ReportSettings()
    """The page."""
    others: dict[str, Path] = Field(default={})
    """External systems, scored beside those of the recipe: name → file of hypotheses (.trn, .ctm, .jsonl, Kaldi's
    `text`), matched by utterance id."""

    @field_validator("robustness")
    @classmethod
    def _conditions(cls, names: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
        for name in () if isinstance(names, bool) else names:
            parse_condition(name)
        return names

    @property
    def conditions(self) -> list[Condition]:
        if isinstance(self.robustness, bool):
            return [parse_condition(name) for name in STANDARD] if self.robustness else []
        return [parse_condition(name) for name in self.robustness]
