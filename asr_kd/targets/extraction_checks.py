"""Before an extraction: the teacher's WER on a few transcribed utterances, and the cost estimated from a timed sample.

A wrong label map shows in the WER at once. Nothing is written.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance, even_sample
from asr_kd.corpora.recordings import read_utterance
from asr_kd.decoding.greedy import greedy
from asr_kd.errors import AudioError, TargetsError
from asr_kd.scoring.wer import Score, UtteranceScore, score
from asr_kd.targets.audio_batches import batches_by_teacher
from asr_kd.targets.bridge import BridgedTeacher
from asr_kd.targets.extract import entry_of, label
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard import shard_bytes
from asr_kd.targets.sharding import PlannedShard, plan_shards, variant_seconds
from asr_kd.targets.stored_arrays import Transcripts, run_teacher
from asr_kd.teachers.base import Teacher
from asr_kd.text.normalize import Normalizer, normalize

TINY_MASS = 0.001
"""Probability a frame of symbols without a counterpart below which no warning is printed."""


class SanitySettings(Settings):
    """Check of a teacher's WER before extraction."""

    utterances: int = Field(default=32, ge=0)
    """Sample of the training set, or of dev where the training set has no transcripts, spread evenly over its ids; 0
    leaves the check out."""
    max_wer: float = Field(default=0.8, gt=0.0)
    """Greedy word error rate, a fraction, above which nothing is extracted."""
    batch_seconds: float = Field(default=60.0, gt=0.0)
    """Audio in one batch, padding included."""


@dataclass(frozen=True)
class ScoredExample:
    """Reference and hypothesis of an utterance, normalized."""

    id: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class SanityReport:
    """Result of the check; `wer` is None where no reference exists."""

    utterances: int
    """Scored."""
    unreadable: int
    """Of the sample, left out here; extraction lists them with their reasons."""
    wer: float | None
    cer: float | None
    examples: tuple[ScoredExample, ...]
    unmapped_mass: float
    """Mean probability a frame of the teacher's symbols that the student lacks; it became blank."""

    def lines(self) -> list[str]:
        if self.wer is None or self.cer is None:
            return ["teacher not checked: no transcribed utterance that could be read in the sample"]
        left_out = f" ({self.unreadable} unreadable ones left out)" if self.unreadable else ""
        lines = [
            f"teacher checked on {self.utterances} utterances{left_out}, greedy: WER {100 * self.wer:.1f} %, "
            f"CER {100 * self.cer:.1f} %"
        ]
        for example in self.examples:
            lines += [
                f"  {example.id}  ref: {example.reference}",
                f"  {' ' * len(example.id)}  hyp: {example.hypothesis}",
            ]
        if self.unmapped_mass > 0.0:
            warning = "" if self.unmapped_mass <= TINY_MASS else ": check the symbols in bridge.ignore"
            lines.append(f"  {100 * self.unmapped_mass:.4f} % of its probability has no symbol of the student{warning}")
        return lines


def measure_teacher_wer(
    teacher: Teacher, utterances: Sequence[Utterance], normalizer: Normalizer, settings: SanitySettings
) -> SanityReport:
    """Decode a teacher greedily on an even sample of the transcribed utterances and score it.

    Raises:
        TargetsError: the word error rate is above `max_wer`; the message lists likely causes.
    """
    transcribed = [utterance for utterance in utterances if normalize(utterance.text or "", normalizer).strip()]
    sample = even_sample(sorted(transcribed, key=lambda utterance: utterance.id), settings.utterances)
    references: dict[str, str] = {}
    hypotheses: dict[str, str] = {}
    for assigned, batch in batches_by_teacher(teacher, sample, settings.batch_seconds):
        decoded = _decode(assigned, batch)
        hypotheses.update(decoded)
        references.update({utterance.id: utterance.text or "" for utterance in batch if utterance.id in decoded})
    unreadable = len(sample) - len(references)
    mass = teacher.unmapped_mass if isinstance(teacher, BridgedTeacher) else 0.0
    if not references:
        return SanityReport(0, unreadable, None, None, (), mass)
    scored = score(references, hypotheses, normalizer)
    report = SanityReport(len(references), unreadable, scored.wer, scored.cer, _examples(scored), mass)
    if scored.wer > settings.max_wer:
        shown = "; ".join(
            f"{item.id}: reference {item.reference!r}, hypothesis {item.hypothesis!r}" for item in report.examples
        )
        raise TargetsError(
            f"the teacher {teacher.name!r} gets {100 * scored.wer:.1f} % of the words and {100 * scored.cer:.1f} % of "
            f"the characters wrong on {report.utterances} utterances ({shown})",
            expected=f"at most {100 * settings.max_wer:g} % of the words (sanity.max_wer {settings.max_wer:g})",
            remedy="Words of the right length with the wrong letters: a wrong label map. Nothing but blanks: another "
            "blank position, or a teacher that is not trained. Few letters, or noise: audio at another sample rate or "
            "level. Fluent words of another language: a teacher of that language. If it is this weak, raise "
            "sanity.max_wer",
        )
    return report


def _decode(teacher: Teacher, batch: Sequence[Utterance]) -> dict[str, str]:
    """Return the greedy transcript of each utterance that can be read."""
    waveforms = {}
    for utterance in batch:
        try:
            waveforms[utterance.id] = read_utterance(utterance)
        except AudioError:
            continue  # counted by the caller; extraction lists it with the reason
    if not waveforms:
        return {}
    dense, _ = run_teacher(teacher, list(waveforms.values()))
    decoded = greedy(dense.log_probs, dense.lens, teacher.vocabulary.blank_id)
    return {name: teacher.vocabulary.decode(found.tokens) for name, found in zip(waveforms, decoded, strict=True)}


def _examples(scored: Score) -> tuple[ScoredExample, ...]:
    """Return the median utterance and the worst."""

    def errors(item: tuple[str, UtteranceScore]) -> tuple[float, str]:
        counts = item[1].characters
        return counts.errors / max(counts.length, 1), item[0]

    ranked = sorted(scored.utterances.items(), key=errors)
    chosen = [ranked[index] for index in sorted({(len(ranked) - 1) // 2, len(ranked) - 1})]
    return tuple(ScoredExample(name, item.reference, item.hypothesis) for name, item in chosen)


SAMPLE_SECONDS = 300.0
"""Audio of the timed sample, over all variants; about so much again warms the device up before it."""
WARM_UP_UTTERANCES = 4


@dataclass(frozen=True)
class PlanReport:
    """Size and time of an extraction."""

    shards: int
    utterances: int
    audio_seconds: float
    """Of the corpus."""
    variants: tuple[str, ...]
    labelled_seconds: float
    """Over all variants."""
    frames: int
    """Estimated, like all below."""
    num_bytes: int
    bytes_per_frame: float
    device_hours: float
    sampled_utterances: int
    sampled_seconds: float
    """Over all variants."""
    took_seconds: float
    """Wall-clock time of the sample, reading and packing included."""
    unusable: int
    """Utterances of the sample that would be quarantined."""

    @property
    def speed(self) -> float:
        """Seconds of audio a second."""
        return self.sampled_seconds / max(self.took_seconds, 1e-9)

    def lines(self, workers: int = 1) -> list[str]:
        """Return lines to print; the hours are divided by `workers`."""
        shared = f", {_time(self.device_hours / workers)} each on {workers} workers" if workers > 1 else ""
        unusable = f"; {self.unusable} of them cannot be used" if self.unusable else ""
        return [
            f"  {self.utterances} utterances, {_time(self.audio_seconds / 3600)} of audio, "
            f"{_time(self.labelled_seconds / 3600)} in the variants {', '.join(self.variants)}",
            f"  {self.shards} shards, about {self.frames} frames and {self.num_bytes / 1e6:.3g} MB "
            f"({self.bytes_per_frame:.2f} bytes a frame)",
            f"  about {_time(self.device_hours)} on this device at {self.speed:.0f} × real time{shared}",
            f"  estimated from {self.sampled_utterances} utterances ({self.sampled_seconds:.0f} s of audio in "
            f"{self.took_seconds:.1f} s, reading included){unusable}",
        ]


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def plan_report(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: TargetSettings,
    sample_seconds: float = SAMPLE_SECONDS,
    transcripts: Transcripts | None = None,
) -> PlanReport:
    """Plan an extraction and label an even sample of so much audio, over all variants, timed.

    Raises:
        TargetsError: no utterances, or none of the sample can be used.
    """
    if not utterances:
        raise TargetsError("no utterances to extract", expected="a manifest with at least one")
    # A sample with the corpus's distribution of lengths, so that batches are equally full and padded.
    ordered = sorted(utterances, key=lambda item: (item.duration, item.id))
    mean = sum(variant_seconds(item, settings) for item in ordered) / len(ordered)
    sample = even_sample(ordered, max(1, round(sample_seconds / mean)))
    codec = settings.codec(len(teacher.vocabulary), teacher.vocabulary.blank_id)
    transcripts = transcripts or {}
    label(teacher, sample[-WARM_UP_UTTERANCES:], settings, transcripts)  # kernels are chosen, memory is taken
    started = time.perf_counter()
    labels = label(teacher, sample, settings, transcripts)
    took = time.perf_counter() - started
    if not labels.rows:
        raise TargetsError(
            f"none of the {len(sample)} sampled utterances can be used: {labels.quarantine[0].reason}",
            expected="audio that can be read and is long enough for the teacher",
            remedy="Run `asr-kd check`",
        )
    entry = entry_of(PlannedShard(0, tuple(sample), 0.0), shard_bytes(codec, labels.rows), labels.rows)
    sampled_ok = sum(variant_seconds(item, settings) for item in sample if item.id in labels.rows)
    labelled = sum(variant_seconds(item, settings) for item in utterances)
    frames, bytes_per_frame = labelled * entry.frames / sampled_ok, entry.num_bytes / max(entry.frames, 1)
    sampled = sum(variant_seconds(item, settings) for item in sample)
    return PlanReport(
        shards=len(plan_shards(utterances, settings)),
        utterances=len(utterances),
        audio_seconds=sum(item.duration for item in utterances),
        variants=settings.variant_names,
        labelled_seconds=labelled,
        frames=round(frames),
        num_bytes=round(frames * bytes_per_frame),
        bytes_per_frame=bytes_per_frame,
        device_hours=labelled * took / sampled / 3600,
        sampled_utterances=len(sample),
        sampled_seconds=sampled,
        took_seconds=took,
        unusable=len(labels.quarantine),
    )
