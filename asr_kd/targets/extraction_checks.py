"""Before an extraction: the teacher's WER on a few transcribed utterances, and the cost estimated from a timed sample.

A wrong label map shows in the WER at once. Nothing is written.
"""

import time
from collections.abc import Sequence

from pydantic import Field

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance, even_sample
from asr_kd.corpora.recordings import read_utterance
from asr_kd.decoding.greedy import greedy
from asr_kd.errors import AudioError, TargetsError
from asr_kd.scoring.wer import Score, UtteranceScore, score
from asr_kd.targets.bridge import BridgedTeacher
from asr_kd.targets.extract import pack_rows, shard_maker
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.sharded_extraction import batches_by_teacher
from asr_kd.targets.sharding import PlannedShard, plan_shards
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


def check_teacher_wer(
    teacher: Teacher, utterances: Sequence[Utterance], normalizer: Normalizer, settings: SanitySettings
) -> list[str]:
    """Transcribe an even sample of the transcribed utterances and score it; return the lines of a report.

    Raises:
        TargetsError: the word error rate is above `settings.max_wer`.
    """
    transcribed = [utterance for utterance in utterances if normalize(utterance.text or "", normalizer).strip()]
    sample = even_sample(sorted(transcribed, key=lambda utterance: utterance.id), settings.utterances)
    hypotheses: dict[str, str] = {}
    for assigned, batch in batches_by_teacher(teacher, sample, settings.batch_seconds):
        hypotheses |= _decode(assigned, batch)
    references = {utterance.id: utterance.text or "" for utterance in sample if utterance.id in hypotheses}
    if not references:
        return ["teacher not checked: no transcribed utterance that could be read in the sample"]
    scored = score(references, hypotheses, normalizer)
    shown = _examples(scored)
    if scored.wer > settings.max_wer:
        pairs = "; ".join(f"{id_}: reference {s.reference!r}, hypothesis {s.hypothesis!r}" for id_, s in shown)
        raise TargetsError(
            f"the teacher {teacher.name!r} gets {100 * scored.wer:.1f} % of the words and {100 * scored.cer:.1f} % of "
            f"the characters wrong on {len(references)} utterances ({pairs})",
            expected=f"at most {100 * settings.max_wer:g} % of the words (sanity.max_wer {settings.max_wer:g})",
            remedy="Words of the right length with the wrong letters: a wrong label map. Nothing but blanks: another "
            "blank position, or a teacher that is not trained. Few letters, or noise: audio at another sample rate or "
            "level. Fluent words of another language: a teacher of that language. If it is this weak, raise "
            "sanity.max_wer",
        )
    unreadable = len(sample) - len(references)
    left_out = f" ({unreadable} unreadable ones left out)" if unreadable else ""
    lines = [
        f"teacher checked on {len(references)} utterances{left_out}, greedy: WER {100 * scored.wer:.1f} %, "
        f"CER {100 * scored.cer:.1f} %"
    ]
    for id_, one in shown:
        lines += [f"  {id_}  ref: {one.reference}", f"  {' ' * len(id_)}  hyp: {one.hypothesis}"]
    mass = teacher.unmapped_mass if isinstance(teacher, BridgedTeacher) else 0.0
    if mass > 0.0:
        warning = "" if mass <= TINY_MASS else ": check the symbols in bridge.ignore"
        lines.append(f"  {100 * mass:.4f} % of its probability has no symbol of the student{warning}")
    return lines


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
    dense, _ = run_teacher(teacher, list(waveforms.values()), ids=list(waveforms))
    decoded = greedy(dense.log_probs, dense.lens, teacher.vocabulary.blank_id)
    return {name: teacher.vocabulary.decode(found.tokens) for name, found in zip(waveforms, decoded, strict=True)}


def _examples(scored: Score) -> list[tuple[str, UtteranceScore]]:
    """Return the median utterance and the worst, by id."""

    def errors(item: tuple[str, UtteranceScore]) -> tuple[float, str]:
        counts = item[1].characters
        return counts.errors / max(counts.length, 1), item[0]

    ranked = sorted(scored.utterances.items(), key=errors)
    return [ranked[index] for index in sorted({(len(ranked) - 1) // 2, len(ranked) - 1})]


SAMPLE_SECONDS = 300.0
"""Audio of the timed sample, over all variants; about so much again warms the device up before it."""
WARM_UP_UTTERANCES = 4


def plan_lines(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: TargetSettings,
    transcripts: Transcripts | None = None,
    workers: int = 1,
    sample_seconds: float = SAMPLE_SECONDS,
) -> list[str]:
    """Plan an extraction and label an even sample of so much audio, over all variants, timed; return the report.

    The hours are divided by `workers`.

    Raises:
        TargetsError: no utterances, or none of the sample can be used.
    """
    shards = plan_shards(utterances, settings)
    # A sample with the corpus's distribution of lengths, so that batches are equally full and padded.
    ordered = sorted(utterances, key=lambda item: (item.duration, item.id))
    labelled = sum(settings.seconds(item) for item in ordered)
    sample = even_sample(ordered, max(1, round(sample_seconds * len(ordered) / labelled)))
    maker = shard_maker(teacher, settings, transcripts or {})
    maker.rows(sample[-WARM_UP_UTTERANCES:])  # kernels are chosen, memory is taken
    started = time.perf_counter()
    rows, quarantine = maker.rows(sample)
    took = max(time.perf_counter() - started, 1e-9)
    if not rows:
        raise TargetsError(
            f"none of the {len(sample)} sampled utterances can be used: {quarantine[0].reason}",
            expected="audio that can be read and is long enough for the teacher",
            remedy="Run `asr-kd check`",
        )
    codec = settings.codec(len(teacher.vocabulary), teacher.vocabulary.blank_id)
    _, entry = pack_rows(PlannedShard(0, tuple(sample), 0.0), rows, codec)
    sampled = sum(settings.seconds(item) for item in sample)
    frames = labelled * entry.frames / sum(settings.seconds(u) for u in sample if u.id in rows)
    bytes_per_frame = entry.num_bytes / max(entry.frames, 1)
    hours = labelled * took / sampled / 3600
    shared = f", {_time(hours / workers)} each on {workers} workers" if workers > 1 else ""
    unusable = f"; {len(quarantine)} of them cannot be used" if quarantine else ""
    return [
        f"  {len(utterances)} utterances, {_time(sum(item.duration for item in utterances) / 3600)} of audio, "
        f"{_time(labelled / 3600)} in the variants {', '.join(settings.variant_names)}",
        f"  {len(shards)} shards, about {round(frames)} frames and "
        f"{frames * bytes_per_frame / 1e6:.3g} MB ({bytes_per_frame:.2f} bytes a frame)",
        f"  about {_time(hours)} on this device at {sampled / took:.0f} × real time{shared}",
        f"  estimated from {len(sample)} utterances ({sampled:.0f} s of audio in {took:.1f} s, reading included)"
        f"{unusable}",
    ]


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
