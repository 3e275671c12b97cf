"""Filters of pseudo-labels, with the yield of each.

Training on unfiltered transcripts of another model can do harm (a noisy student of WeNet:
4.85 → 5.52 % CER unfiltered, 4.31 % filtered over several rounds). Every filter has its threshold in the recipe, and
its yield in the report: utterances and hours kept, and the WER before and after it where transcripts exist.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from asr_kd.config import Settings
from asr_kd.errors import TargetsError
from asr_kd.scoring.wer import score
from asr_kd.teachers.whisper_transcriber import Transcription

LONGEST_REPEAT = 4
"""Words of the longest phrase whose repetition is counted."""


class LabelFilters(Settings):
    """Thresholds of the filters, in the order in which they are applied; null switches one off."""

    min_avg_logprob: float | None = -1.0
    """Average log-probability a token, of the transcript as a whole."""
    max_no_speech_prob: float | None = Field(default=0.6, ge=0, le=1)
    """Probability that there is no speech at all, the largest of any segment."""
    max_compression_ratio: float | None = Field(default=2.4, gt=0)
    """Characters to compressed bytes: text that repeats itself compresses well."""
    max_repeats: int | None = Field(default=5, ge=1)
    """Most repetitions in a row of a phrase of one to four words: hallucinations repeat."""
    min_characters_per_second: float | None = Field(default=None, ge=0)
    """Fewer: most of the audio is missing from the text."""
    max_characters_per_second: float | None = Field(default=30.0, gt=0)
    """More is faster than speech."""
    min_language_prob: float | None = Field(default=None, ge=0, le=1)
    """Probability of the language, where it was detected."""
    max_disagreement: float | None = Field(default=None, ge=0)
    """WER, a fraction, between this transcript and that of the second model or decoding (`agree_with`)."""
    max_transcript_wer: float | None = Field(default=None, ge=0)
    """WER, a fraction, against the corpus' own transcript, where there is one."""
    min_reading_margin: float | None = Field(default=None, ge=0)
    """Nats by which the best reading of digits and abbreviations must be ahead of the next in the CTC model's score."""
    max_filtered_share: float = Field(default=0.8, ge=0, le=1)
    """Share of the hours that may be filtered out before the run stops: more means a wrong language or level."""


@dataclass(frozen=True)
class Label(Transcription):
    """A transcript, normalized in the student's alphabet, with its measures."""

    seconds: float = 0.0
    """Of the utterance's audio."""
    second_text: str | None = None
    """Of the second model or decoding, normalized in the same way."""
    transcript: str | None = None
    """Of the corpus, normalized in the same way; None where there is none."""
    reading_margin: float | None = None
    """Nats between the best reading and the next; None where there was one reading only or no CTC model."""
    problem: str | None = None
    """Why no student can be trained on it whatever the thresholds: letters outside the alphabet, too long for CTC."""


@dataclass(frozen=True)
class FilterStep:
    """Yield of one filter."""

    name: str
    threshold: float | int | None
    kept: int
    """Utterances after it."""
    hours: float
    """Of these."""
    wer: float | None
    """Of these against their transcripts, a fraction; None where there are none."""


@dataclass(frozen=True)
class FilterReport:
    """The yield of all filters."""

    steps: tuple[FilterStep, ...]
    """The first is "none": what there was."""
    removed: Mapping[str, str] = field(default_factory=dict)
    """Utterance id → the first filter that it fails."""

    def lines(self) -> list[str]:
        rows = [f"{'filter':<28} {'threshold':>9} {'utterances':>10} {'hours':>8} {'WER %':>7}"]
        for step in self.steps:
            wer = "–" if step.wer is None else f"{100 * step.wer:.2f}"
            threshold = "" if step.threshold is None else f"{step.threshold:g}"
            rows.append(f"{step.name:<28} {threshold:>9} {step.kept:>10} {step.hours:>8.2f} {wer:>7}")
        return rows


def apply_filters(labels: Mapping[str, Label], filters: LabelFilters) -> FilterReport:
    """Apply every filter that is on, one after another.

    Raises:
        TargetsError: nothing to filter, or more than `max_filtered_share` of the hours fail.
    """
    if not labels:
        raise TargetsError("there are no pseudo-labels to filter", expected="at least one transcribed utterance")
    kept = dict(labels)
    removed: dict[str, str] = {}
    steps = [_step("none", None, kept)]
    for name, passes in FILTERS.items():
        threshold = getattr(filters, name, None)
        if threshold is None and name in LabelFilters.model_fields:
            continue  # switched off
        for id_ in [id_ for id_, label in kept.items() if not passes(label, threshold)]:
            removed[id_] = name
            del kept[id_]
        steps.append(_step(name, threshold, kept))
    report = FilterReport(tuple(steps), removed)
    before, after = steps[0].hours, steps[-1].hours
    if after < (1 - filters.max_filtered_share) * before or not kept:
        worst = Counter(removed.values()).most_common(1)[0][0] if removed else "none"
        raise TargetsError(
            f"the filters keep {after:.2f} of {before:.2f} hours; most fail {worst}",
            expected=f"at most {100 * filters.max_filtered_share:g} % filtered out (max_filtered_share)",
            remedy="Check language, sample rate and level of the audio on a few transcripts; then loosen that filter",
        )
    return report


def longest_repeat(text: str) -> int:
    """Return the most repetitions in a row of a phrase of one to four words; 1 in ordinary text, 0 in an empty one."""
    words = text.split()
    most = min(len(words), 1)
    for length in range(1, LONGEST_REPEAT + 1):
        equal = 0  # words in a row that are those of `length` places before
        for earlier, word in zip(words, words[length:], strict=False):
            equal = equal + 1 if word == earlier else 0
            most = max(most, equal // length + 1)
    return most


def _rate(label: Label) -> float:
    return len(label.text.replace(" ", "")) / max(label.seconds, 1e-3)


def _distance(reference: str | None, text: str) -> float:
    """WER as a fraction; 0 where the reference is None, infinite for words against a reference without any."""
    if reference is None:
        return 0.0
    if not reference.strip():
        return 0.0 if not text.strip() else float("inf")
    return score({"": reference}, {"": text}, "none").wer


def _step(name: str, threshold: float | int | None, kept: Mapping[str, Label]) -> FilterStep:
    hours = sum(label.seconds for label in kept.values()) / 3600
    pairs = {id_: label for id_, label in kept.items() if label.transcript and label.transcript.strip()}
    wer = None
    if pairs:
        references = {id_: label.transcript or "" for id_, label in pairs.items()}
        wer = score(references, {id_: label.text for id_, label in pairs.items()}, "none").wer
    return FilterStep(name, threshold, len(kept), hours, wer)


FILTERS: dict[str, Callable[[Label, Any], bool]] = {
    "empty": lambda label, _: bool(label.text.strip()),
    "alphabet and length for CTC": lambda label, _: label.problem is None,
    "min_avg_logprob": lambda label, least: label.avg_logprob is None or label.avg_logprob >= least,
    "max_no_speech_prob": lambda label, most: (label.no_speech_prob or 0.0) <= most,
    "max_compression_ratio": lambda label, most: (label.compression_ratio or 0.0) <= most,
    "max_repeats": lambda label, most: longest_repeat(label.text) <= most,
    "min_characters_per_second": lambda label, least: _rate(label) >= least,
    "max_characters_per_second": lambda label, most: _rate(label) <= most,
    "min_language_prob": lambda label, least: label.language_prob is None or label.language_prob >= least,
    "max_disagreement": lambda label, most: _distance(label.second_text, label.text) <= most,
    "max_transcript_wer": lambda label, most: _distance(label.transcript, label.text) <= most,
    "min_reading_margin": lambda label, least: label.reading_margin is None or label.reading_margin >= least,
}
"""Whether a label passes each filter, by name, in order; those that `LabelFilters` names take its threshold."""
