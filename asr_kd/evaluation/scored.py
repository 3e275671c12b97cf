"""A test set's hypotheses into everything that is said of their words: errors, intervals, pairs, agreement.

The same for systems that were run here and for those whose hypotheses were read. Knows texts and speakers, nothing of
audio or models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asr_kd.evaluation.comparison import (
    Comparison,
    agreements,
    compare,
    errors_of,
    every_pair,
    words_of,
)
from asr_kd.evaluation.results import Excluded, SetResult, SystemResult
from asr_kd.evaluation.seeds import SeedRow, SeedRows, seed_rows
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.systems import report_order
from asr_kd.scoring.significance import Resampling, bootstrap_wer
from asr_kd.scoring.wer import Score, score, score_groups
from asr_kd.text.normalize import ScoringNormalizer


@dataclass(frozen=True)
class Spoken:
    """What was said in a test set."""

    references: Mapping[str, str]
    """Utterance id → text."""
    speakers: Mapping[str, str]
    """Utterance id → speaker; empty where speakers are not known."""
    seconds: float | None = None
    """Of speech; None is not known."""
    excluded: Sequence[Excluded] = ()
    """Utterances that are not scored."""


def score_set(
    spoken: Spoken,
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
    references, speakers = spoken.references, spoken.speakers
    resampling = Resampling(settings.bootstrap_samples, settings.bootstrap_seed)
    groups = [speakers[utterance_id] for utterance_id in references] if speakers else None
    systems = {
        key: _system(spoken, hypotheses[key], settings.normalizer, groups, resampling)
        for key in report_order(hypotheses)
    }
    by_speaker = groups if groups is not None and len(set(groups)) > 1 else None
    scores = {key: result.score for key, result in systems.items()}
    present = [pair for pair in pairs if all(key in systems for key in pair.names)]
    return SetResult(
        systems=systems,
        references=dict(references),
        speakers=dict(speakers),
        seconds=spoken.seconds,
        excluded=list(spoken.excluded),
        comparisons=compare(present, scores, by_speaker, resampling),
        resampled_by="speakers" if by_speaker is not None else "utterances",
        pairs=every_pair(scores, by_speaker, resampling),
        agreement=agreements(present, scores),
        seeds=_seeds(seeds, scores, by_speaker, resampling) if seeds is not None else [],
    )


def _system(
    spoken: Spoken,
    texts: Mapping[str, str],
    normalizer: ScoringNormalizer,
    groups: Sequence[str] | None,
    resampling: Resampling,
) -> SystemResult:
    own = {utterance_id: texts[utterance_id] for utterance_id in spoken.references if utterance_id in texts}
    scored = score(spoken.references, own, normalizer)
    errors, words = errors_of(scored), words_of(scored)
    return SystemResult(
        score=scored,
        hypotheses=own,
        interval=bootstrap_wer(errors, words, resampling=resampling),
        speaker_interval=bootstrap_wer(errors, words, groups=groups, resampling=resampling) if groups else None,
        by_speaker=score_groups(scored, spoken.speakers) if spoken.speakers else {},
    )


def _seeds(
    seeds: SeedRows, scores: Mapping[str, Score], groups: Sequence[str] | None, resampling: Resampling
) -> list[SeedRow]:
    errors = {key: errors_of(scored) for key, scored in scores.items()}
    return seed_rows(seeds.among(scores), errors, words_of(next(iter(scores.values()))), groups, resampling)
