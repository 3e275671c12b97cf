"""Transcribe a test set with all systems, batch by batch, and score what they wrote.

Every system gets the same samples, and an utterance that is left out is left out for all of them. Hypotheses that were
read from files are scored by the same function.

Shapes: S samples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from asr_kd.corpora.manifest import Utterance, even_sample
from asr_kd.corpora.recordings import Exclusion, read_utterance
from asr_kd.errors import AudioError, EvaluationError
from asr_kd.evaluation.comparison import (
    Comparison,
    SeedRows,
    agreements,
    compare,
    default_gap,
    ends,
    error_counts,
    every_pair,
    seed_rows,
    word_counts,
)
from asr_kd.evaluation.resumption import OutputTexts, Resumption, SetVariant
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system import Transcriber, report_order
from asr_kd.features.fbank import batches_by_duration
from asr_kd.scoring.significance import Resampling, bootstrap_wer
from asr_kd.scoring.wer import ErrorCounts, Score, score, score_groups

Change = Callable[[Utterance, Tensor], Tensor]
"""A change of a waveform [S] before it is transcribed."""

OnProgress = Callable[[int], None]
"""Called with the number of utterances that are done."""


class TranscribedSet(NamedTuple):
    """The utterances of a test set that are scored, and their transcripts."""

    utterances: Sequence[Utterance]
    texts: OutputTexts
    excluded: Sequence[Exclusion] = ()  # utterances that are not scored, such as those whose audio is damaged


def transcribe_all(
    recognizers: Mapping[str, Transcriber],
    variant: SetVariant,
    utterances: Sequence[Utterance],
    batch_seconds: float,
    resumption: Resumption,
    report: OnProgress = lambda done: None,
    change: Change | None = None,
) -> TranscribedSet:
    """Transcribe every utterance of a variant of a test set with every system.

    Args:
        recognizers: by their system's key.
        batch_seconds: audio handed to a system at once, padding included.
        resumption: transcripts from before; where all are kept at the end, also when an error or a stop ends it
            earlier; and reasons to stop, which are looked for after each batch that was transcribed, except the last.
        change: applied to each waveform; None leaves them as they are.

    Raises:
        StoppedEarly: there was a reason to stop.
        EvaluationError: a system gives another number of transcripts than it was given waveforms.
    """
    known = resumption.known.get(variant, {})
    texts: dict[str, dict[str, str]] = {key: {} for key in recognizers}
    excluded: dict[str, Exclusion] = {}
    done = 0
    ordered = sorted(utterances, key=lambda utterance: (-utterance.duration, utterance.id))  # from long to short
    try:
        for batch in batches_by_duration([item.duration for item in ordered], batch_seconds, range(len(ordered))):
            is_new = False
            waveforms = _waveforms([ordered[row] for row in batch], change, excluded)
            for key, recognizer in recognizers.items() if waveforms else ():
                before = known.get(key, {})
                if waveforms.keys() <= before.keys():
                    texts[key] |= {utterance_id: before[utterance_id] for utterance_id in waveforms}
                else:
                    texts[key] |= _transcribed(key, recognizer, waveforms)
                    is_new = True
            done += len(batch)
            report(done)
            if is_new and done < len(ordered):  # every run goes on by a batch
                resumption.stop(variant, done, len(ordered))
    finally:
        resumption.keep(variant, texts)
    scored = [utterance for utterance in utterances if utterance.id not in excluded]
    return TranscribedSet(scored, texts, list(excluded.values()))


def _waveforms(
    utterances: Sequence[Utterance], change: Change | None, excluded: dict[str, Exclusion]
) -> dict[str, Tensor]:
    """Samples [S] by utterance; those that cannot be read are added to `excluded`."""
    waveforms = {}
    for utterance in utterances:
        try:
            waveform = read_utterance(utterance)
        except AudioError as error:
            excluded[utterance.id] = Exclusion(utterance.id, utterance.audio, str(error))
        else:
            waveforms[utterance.id] = change(utterance, waveform) if change is not None else waveform
    return waveforms


def _transcribed(key: str, recognizer: Transcriber, waveforms: Mapping[str, Tensor]) -> dict[str, str]:
    written = recognizer.transcribe(list(waveforms.values()))
    if len(written) != len(waveforms):
        raise EvaluationError(
            f"gave {len(written)} transcripts for {len(waveforms)} waveforms", where=key, expected="one each"
        )
    return dict(zip(waveforms, written, strict=True))


def spread(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """At most `count` utterances at equal steps from the shortest to the longest."""
    return even_sample(sorted(utterances, key=lambda utterance: (utterance.duration, utterance.id)), count)


class ReferenceSet(NamedTuple):
    """References of a test set, with their speakers."""

    references: Mapping[str, str]  # utterance id → text
    speakers: Mapping[str, str]  # utterance id → speaker; empty where speakers are not known
    seconds: float | None = None  # of speech; None: not known
    excluded: Sequence[Exclusion] = ()  # utterances that are not scored


class ScoredSet(NamedTuple):
    """Every system on the same utterances of one test set, as plain data."""

    entry: dict[str, Any]  # of the set among the `test_sets` of results.json
    rows: dict[str, list[dict[str, Any]]]  # system's key → its utterances in the order of the references
    seeds: dict[str, dict[str, Any]]  # row of several training runs → its entry for this set


def score_set(
    reference_set: ReferenceSet,
    hypotheses: OutputTexts,
    names: Mapping[str, str],
    pairs: Sequence[Comparison],
    settings: EvaluationSettings,
    seeds: SeedRows | None = None,
) -> ScoredSet:
    """Score every system on the same utterances and test every pair.

    Args:
        hypotheses: system's key → utterance id → what it wrote; at least the references' ids.
        names: system's key → its own name.
        pairs: students to compare, by keys; those with a system that is not among the hypotheses are left out.
        seeds: which systems are runs of one; those that are not among the hypotheses are left out.

    Raises:
        EvaluationError: no references, or a system without a hypothesis for one.
    """
    references, speakers = reference_set.references, reference_set.speakers
    seconds = None if reference_set.seconds is None else round(reference_set.seconds, 3)
    resampling = Resampling(settings.bootstrap_samples, settings.bootstrap_seed)
    scores = {}
    for key in report_order(hypotheses):
        own = {id_: hypotheses[key][id_] for id_ in references if id_ in hypotheses[key]}
        scores[key] = score(references, own, settings.normalizer)
    groups = [speakers[utterance_id] for utterance_id in references] if len(set(speakers.values())) > 1 else None
    present = [pair for pair in pairs if scores.keys() >= set(pair.names)]
    compared = compare(present, scores, groups, resampling)
    systems = {
        key: {"name": names[key], "seconds": seconds, **_system_entry(scored, speakers, groups, resampling)}
        for key, scored in scores.items()
    }
    entry = {
        **systems,
        **default_gap(compared, scores),
        "comparisons": compared,
        "resampled_by": "utterances" if groups is None else "speakers",
        "pairs": every_pair(scores, groups, resampling),
        "agreement": agreements(present, scores),
        "utterances": len(references),
        "speakers": len(set(speakers.values())),
        "seconds": seconds,
        "excluded": [
            {"id": item.id, "audio": str(item.path), "reason": item.reason} for item in reference_set.excluded
        ],
    }
    counts, words = {key: error_counts(own) for key, own in scores.items()}, word_counts(next(iter(scores.values())))
    requested = (seeds or SeedRows()).among({names[key]: key for key in scores})
    return ScoredSet(
        entry,
        {key: _rows(reference_set, scored, hypotheses[key]) for key, scored in scores.items()},
        seed_rows(requested, counts, words, groups, resampling),
    )


def _system_entry(
    scored: Score, speakers: Mapping[str, str], groups: Sequence[str] | None, resampling: Resampling
) -> dict[str, Any]:
    """Errors of one system; rates of a speaker are None where the references hold nothing."""
    errors, words = error_counts(scored), word_counts(scored)
    over_speakers = None if groups is None else bootstrap_wer(errors, words, groups=groups, resampling=resampling)
    return {
        "wer": scored.wer,
        **ends(bootstrap_wer(errors, words, resampling=resampling), "wer_low", "wer_high"),
        **ends(over_speakers, "wer_low_speakers", "wer_high_speakers"),
        "cer": scored.cer,
        **_counts(scored.words, scored.characters),
        "utterances": len(scored.utterances),
        "by_speaker": {
            speaker: {
                "utterances": own.utterances,
                "errors": own.words.errors,
                "wer": own.words.rate if own.words.length else None,
                "cer": own.characters.rate if own.characters.length else None,
                **_counts(own.words, own.characters),
            }
            for speaker, own in (score_groups(scored, speakers).items() if speakers else ())
        },
    }


def _counts(words: ErrorCounts, characters: ErrorCounts) -> dict[str, int]:
    return {
        **words.row,
        "character_substitutions": characters.substitutions,
        "character_deletions": characters.deletions,
        "character_insertions": characters.insertions,
        "characters": characters.length,
    }


def _rows(reference_set: ReferenceSet, scored: Score, written: Mapping[str, str]) -> list[dict[str, Any]]:
    """One utterance a row: both texts as they were scored, and as they were where the normalizer changed them."""
    rows = []
    for utterance_id, utterance in scored.utterances.items():
        row: dict[str, Any] = {"id": utterance_id}
        if utterance_id in reference_set.speakers:
            row["speaker"] = reference_set.speakers[utterance_id]
        row |= {"reference": utterance.reference, "hypothesis": utterance.hypothesis, "errors": utterance.words.row}
        if reference_set.references[utterance_id] != utterance.reference:
            row["raw_reference"] = reference_set.references[utterance_id]
        if written[utterance_id] != utterance.hypothesis:
            row["raw_hypothesis"] = written[utterance_id]
        rows.append(row)
    return rows
