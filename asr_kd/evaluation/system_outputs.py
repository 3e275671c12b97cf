"""Transcribe a test set with all systems, batch by batch, and score what they wrote.

Every system gets the same samples, and an utterance that is left out is left out for all of them. Hypotheses that were
read from files are scored by the same function.

Shapes: S samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError, EvaluationError
from asr_kd.evaluation.comparison import (
    Comparison,
    SeedRows,
    agreements,
    compare,
    error_counts,
    every_pair,
    seed_rows,
    word_counts,
)
from asr_kd.evaluation.results import Excluded, SetResult, SystemResult
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system import Transcriber, report_order
from asr_kd.features.fbank import batches_by_duration
from asr_kd.scoring.significance import Resampling, bootstrap_wer
from asr_kd.scoring.wer import score, score_groups

Change = Callable[[Utterance, Tensor], Tensor]
"""A change of a waveform [S] before it is transcribed."""

OutputTexts = Mapping[str, Mapping[str, str]]
"""System's key → utterance id → text."""

OnProgress = Callable[[int], None]
"""Called with the number of utterances that are done."""


class TranscribedSet(NamedTuple):
    """The utterances of a test set that are scored, and their transcripts."""

    utterances: Sequence[Utterance]
    texts: Mapping[str, Mapping[str, str]]  # system's key → utterance id → text
    excluded: Sequence[Excluded] = ()  # utterances that are not scored, such as those whose audio is damaged


def transcribe_all(
    recognizers: Mapping[str, Transcriber],
    utterances: Sequence[Utterance],
    batch_seconds: float,
    *,
    change: Change | None = None,
    known: OutputTexts | None = None,
    report: OnProgress = lambda done: None,
) -> TranscribedSet:
    """Transcribe every utterance with every system.

    Args:
        recognizers: by their system's key.
        batch_seconds: audio handed to a system at once, padding included.
        change: applied to each waveform; None leaves them as they are.
        known: transcripts of these waveforms from before; used instead of transcribing again.

    Raises:
        EvaluationError: a system gives another number of transcripts than it was given waveforms.
    """
    texts: dict[str, dict[str, str]] = {key: {} for key in recognizers}
    excluded: list[Excluded] = []
    done = 0
    ordered = sorted(utterances, key=lambda utterance: (-utterance.duration, utterance.id))  # from long to short
    for rows in batches_by_duration([item.duration for item in ordered], batch_seconds, range(len(ordered))):
        batch = [ordered[row] for row in rows]
        waveforms = _read(batch, change, excluded)
        for key, recognizer in recognizers.items() if waveforms else ():
            before = (known or {}).get(key, {})
            if waveforms.keys() <= before.keys():
                texts[key] |= {utterance_id: before[utterance_id] for utterance_id in waveforms}
                continue
            written = recognizer.transcribe(list(waveforms.values()))
            if len(written) != len(waveforms):
                raise EvaluationError(
                    f"gave {len(written)} transcripts for {len(waveforms)} waveforms", where=key, expected="one each"
                )
            texts[key] |= dict(zip(waveforms, written, strict=True))
        done += len(batch)
        report(done)
    damaged = {item.id for item in excluded}
    return TranscribedSet([utterance for utterance in utterances if utterance.id not in damaged], texts, excluded)


def spread(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """At most `count` utterances at equal steps from the shortest to the longest."""
    by_duration = sorted(utterances, key=lambda utterance: (utterance.duration, utterance.id))
    if count >= len(by_duration):
        return by_duration
    return [by_duration[(2 * index + 1) * len(by_duration) // (2 * count)] for index in range(count)]


def _read(batch: Sequence[Utterance], change: Change | None, excluded: list[Excluded]) -> dict[str, Tensor]:
    """Utterance id → waveform; damaged ones go to `excluded` instead."""
    waveforms = {}
    for utterance in batch:
        try:
            waveform = read_utterance(utterance)
        except AudioError as error:
            excluded.append(Excluded(utterance.id, str(utterance.audio), str(error)))
            continue
        waveforms[utterance.id] = change(utterance, waveform) if change is not None else waveform
    return waveforms


@dataclass(frozen=True)
class ReferenceSet:
    """References of a test set, with their speakers."""

    references: Mapping[str, str]
    """Utterance id → text."""
    speakers: Mapping[str, str]
    """Utterance id → speaker; empty where speakers are not known."""
    seconds: float | None = None
    """Of speech; None is not known."""
    excluded: Sequence[Excluded] = ()
    """Utterances that are not scored."""


def score_set(
    reference_set: ReferenceSet,
    hypotheses: Mapping[str, Mapping[str, str]],
    pairs: Sequence[Comparison],
    settings: EvaluationSettings,
    seeds: SeedRows | None = None,
) -> SetResult:
    """Score every system on the same utterances and test every pair.

    Args:
        hypotheses: system's key → utterance id → what it wrote; at least the references' ids.
        pairs: students to compare, by keys; those with a system that is not among the hypotheses are left out.
        seeds: which systems are runs of one, by keys; those that are not among the hypotheses are left out.

    Raises:
        EvaluationError: no references, or a system without a hypothesis for one.
    """
    references, speakers = reference_set.references, reference_set.speakers
    resampling = Resampling(settings.bootstrap_samples, settings.bootstrap_seed)
    groups = [speakers[utterance_id] for utterance_id in references] if speakers else None
    systems = {}
    for key in report_order(hypotheses):
        texts = hypotheses[key]
        own = {utterance_id: texts[utterance_id] for utterance_id in references if utterance_id in texts}
        scored = score(references, own, settings.normalizer)
        errors, words = error_counts(scored), word_counts(scored)
        systems[key] = SystemResult(
            score=scored,
            hypotheses=own,
            interval=bootstrap_wer(errors, words, resampling=resampling),
            speaker_interval=bootstrap_wer(errors, words, groups=groups, resampling=resampling) if groups else None,
            by_speaker=score_groups(scored, speakers) if speakers else {},
        )
    by_speaker = groups if groups is not None and len(set(groups)) > 1 else None
    scores = {key: result.score for key, result in systems.items()}
    counts = {key: error_counts(scored) for key, scored in scores.items()}
    words = word_counts(next(iter(scores.values())))
    present = [pair for pair in pairs if all(key in systems for key in pair.names)]
    return SetResult(
        systems=systems,
        references=dict(references),
        speakers=dict(speakers),
        seconds=reference_set.seconds,
        excluded=list(reference_set.excluded),
        comparisons=compare(present, scores, by_speaker, resampling),
        resampled_by="speakers" if by_speaker is not None else "utterances",
        pairs=every_pair(scores, by_speaker, resampling),
        agreement=agreements(present, scores),
        seeds=seed_rows(seeds.among(scores), counts, words, by_speaker, resampling) if seeds is not None else [],
    )
