"""A teacher heard on a few transcribed utterances before it labels everything: a wrong label map shows at once.

Knows teachers and transcripts; writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.decoding.greedy import greedy
from asr_kd.errors import AudioError, TargetsError
from asr_kd.scoring.wer import Score, UtteranceScore, score
from asr_kd.targets.bridge import BridgedTeacher
from asr_kd.targets.labelling import batches_by_teacher, listen
from asr_kd.teachers.base import Teacher
from asr_kd.text.normalize import Normalizer, normalize

TINY_MASS = 0.001
"""Probability a frame of symbols without a counterpart that is not worth a word of warning."""


class SanitySettings(Settings):
    """The look at a teacher's words before extraction."""

    utterances: int = Field(default=32, ge=0)
    """Sample of the training set, spread evenly over its ids; 0 leaves the check out."""
    max_wer: float = Field(default=0.8, gt=0.0)
    """Greedy word error rate, a fraction, above which nothing is extracted."""
    batch_seconds: float = Field(default=60.0, gt=0.0)
    """Audio the teacher sees at once."""


@dataclass(frozen=True)
class Example:
    """What was said and what the teacher heard, after the normalizer."""

    id: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class SanityReport:
    """What the teacher said; `wer` is None where there was nothing to compare with."""

    utterances: int
    """Scored."""
    unreadable: int
    """Of the sample, left out here; extraction lists them with their reasons."""
    wer: float | None
    cer: float | None
    examples: tuple[Example, ...]
    unmapped_mass: float
    """Mean probability a frame of the teacher's symbols that the student lacks; it became blank."""

    def lines(self) -> list[str]:
        """For people."""
        if self.wer is None or self.cer is None:
            return ["teacher not checked: no transcribed utterance that could be read in the sample"]
        left_out = f" ({self.unreadable} unreadable ones left out)" if self.unreadable else ""
        lines = [
            f"teacher heard on {self.utterances} utterances{left_out}, greedy: WER {100 * self.wer:.1f} %, "
            f"CER {100 * self.cer:.1f} %"
        ]
        for example in self.examples:
            lines += [
                f"  {example.id}  said:  {example.reference}",
                f"  {' ' * len(example.id)}  heard: {example.hypothesis}",
            ]
        if self.unmapped_mass > 0.0:
            warning = "" if self.unmapped_mass <= TINY_MASS else ": look at the symbols that the bridge ignores"
            lines.append(f"  {100 * self.unmapped_mass:.4f} % of its probability had no symbol here{warning}")
        return lines


def measure_teacher_wer(
    teacher: Teacher, utterances: Sequence[Utterance], normalizer: Normalizer, settings: SanitySettings
) -> SanityReport:
    """Decode a teacher greedily on an even sample of the transcribed utterances and score it.

    Args:
        teacher: as extraction will use it: bridged to the student.
        utterances: the training set; those without a transcript are passed over.
        normalizer: of both sides, as in evaluation.
        settings: sample and threshold.

    Raises:
        TargetsError: the word error rate is above `max_wer`; says what that can mean.
    """
    sample = _sample(utterances, normalizer, settings.utterances)
    references: dict[str, str] = {}
    hypotheses: dict[str, str] = {}
    for listener, batch in batches_by_teacher(teacher, sample, settings.batch_seconds):
        heard = _forward(listener, batch)
        hypotheses.update(heard)
        references.update({utterance.id: utterance.text or "" for utterance in batch if utterance.id in heard})
    unreadable = len(sample) - len(references)
    mass = teacher.unmapped_mass if isinstance(teacher, BridgedTeacher) else 0.0
    if not references:
        return SanityReport(0, unreadable, None, None, (), mass)
    scored = score(references, hypotheses, normalizer)
    report = SanityReport(len(references), unreadable, scored.wer, scored.cer, _examples(scored), mass)
    if scored.wer > settings.max_wer:
        raise _implausible(teacher, report, settings)
    return report


def _sample(utterances: Sequence[Utterance], normalizer: Normalizer, count: int) -> list[Utterance]:
    """Evenly spread over the sorted ids."""
    transcribed = [utterance for utterance in utterances if normalize(utterance.text or "", normalizer).strip()]
    transcribed.sort(key=lambda utterance: utterance.id)
    count = min(count, len(transcribed))
    return [transcribed[index * len(transcribed) // count] for index in range(count)]


def _forward(teacher: Teacher, batch: Sequence[Utterance]) -> dict[str, str]:
    """What the teacher says of each utterance that can be read."""
    waveforms = {}
    for utterance in batch:
        try:
            waveforms[utterance.id] = read_utterance(utterance)
        except AudioError:
            continue  # counted by the caller; extraction lists it with the reason
    if not waveforms:
        return {}
    dense = listen(teacher, list(waveforms.values()))
    decoded = greedy(dense.log_probs, dense.lens, teacher.vocabulary.blank_id)
    return {name: teacher.vocabulary.decode(tokens) for name, tokens in zip(waveforms, decoded, strict=True)}


def _examples(scored: Score) -> tuple[Example, ...]:
    """A typical one and the worst."""

    def errors(item: tuple[str, UtteranceScore]) -> tuple[float, str]:
        counts = item[1].characters
        return counts.errors / max(counts.characters, 1), item[0]

    ranked = sorted(scored.utterances.items(), key=errors)
    chosen = [ranked[index] for index in sorted({(len(ranked) - 1) // 2, len(ranked) - 1})]
    return tuple(Example(name, item.reference, item.hypothesis) for name, item in chosen)


def _implausible(teacher: Teacher, report: SanityReport, settings: SanitySettings) -> TargetsError:
    said = "; ".join(f"{item.id}: said {item.reference!r}, heard {item.hypothesis!r}" for item in report.examples)
    wer, cer = report.wer or 0.0, report.cer or 0.0
    return TargetsError(
        f"the teacher {teacher.name!r} gets {100 * wer:.1f} % of the words and {100 * cer:.1f} % of the characters "
        f"wrong on {report.utterances} utterances ({said})",
        expected=f"at most {100 * settings.max_wer:g} % of the words (sanity.max_wer {settings.max_wer:g})",
        remedy="Words of the right length with the wrong letters: a wrong label map. Nothing but blanks: another blank "
        "position, or a teacher that has not learnt. Few letters, or noise: audio at another sample rate or level. "
        "Fluent words of another language: a teacher of that language. If it is just this weak, raise sanity.max_wer",
    )
