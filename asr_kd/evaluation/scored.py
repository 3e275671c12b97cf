"""A test set's hypotheses into everything that is said of their words: errors, intervals, pairs, agreement.

The same for systems that were run here and for those whose hypotheses were read. Knows texts and speakers, nothing of
audio or models.
"""

from collections.abc import Mapping, Sequence

from asr_kd.evaluation.comparison import (
    Comparison,
    agreements,
    compare,
    errors_of,
    every_pair,
    words_of,
)
from asr_kd.evaluation.results import Excluded, SetResult, SystemResult
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.scoring.significance import Resampling, bootstrap_wer
from asr_kd.scoring.wer import score, score_groups


def score_set(
    references: Mapping[str, str],
    speakers: Mapping[str, str],
    hypotheses: Mapping[str, Mapping[str, str]],
    pairs: Sequence[Comparison],
    settings: EvaluationSettings,
    *,
    seconds: float | None = None,
    excluded: Sequence[Excluded] = (),
) -> SetResult:
    """Score every system on the same utterances and test every pair.

    Args:
        references: utterance id → what was said.
        speakers: utterance id → speaker; empty where speakers are not known.
        hypotheses: system's key → utterance id → what it wrote; at least the references' ids.
        pairs: students to compare, by keys; those with a system that is not among the hypotheses are left out.
        seconds: of speech; None is not known.
        excluded: utterances that were not scored.

    Raises:
        EvaluationError: no references, or a system without a hypothesis for one.
    """
    resampling = Resampling(settings.bootstrap_samples, settings.bootstrap_seed)
    groups = [speakers[utterance_id] for utterance_id in references] if speakers else None
    systems = {
        key: _system(references, texts, settings, speakers, groups, resampling) for key, texts in hypotheses.items()
    }
    by_speaker = groups if groups is not None and len(set(groups)) > 1 else None
    scores = {key: result.score for key, result in systems.items()}
    present = [pair for pair in pairs if all(key in systems for key in pair.names)]
    return SetResult(
        systems=systems,
        references=dict(references),
        speakers=dict(speakers),
        seconds=seconds,
        excluded=list(excluded),
        comparisons=compare(present, scores, by_speaker, resampling),
        resampled_by="speakers" if by_speaker is not None else "utterances",
        pairs=every_pair(scores, by_speaker, resampling),
        agreement=agreements(present, scores),
    )


def _system(
    references: Mapping[str, str],
    texts: Mapping[str, str],
    settings: EvaluationSettings,
    speakers: Mapping[str, str],
    groups: Sequence[str] | None,
    resampling: Resampling,
) -> SystemResult:
    own = {utterance_id: texts[utterance_id] for utterance_id in references if utterance_id in texts}
    scored = score(references, own, settings.normalizer)
    errors, words = errors_of(scored), words_of(scored)
    return SystemResult(
        score=scored,
        hypotheses=own,
        interval=bootstrap_wer(errors, words, resampling=resampling),
        speaker_interval=bootstrap_wer(errors, words, groups=groups, resampling=resampling) if groups else None,
        by_speaker=score_groups(scored, speakers) if speakers else {},
    )
