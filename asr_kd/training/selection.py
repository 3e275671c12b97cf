"""Selection of training utterances: tokens and pseudo-labels of each; the others are listed with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TrainingError
from asr_kd.features.fbank import SAMPLE_RATE, num_frames
from asr_kd.losses import Objective
from asr_kd.models.subsampling import FRAME_SHIFT_MS, output_len
from asr_kd.text.normalize import normalize
from asr_kd.training.pseudo_labels import PseudoLabels, WeightedHypothesis, select_pseudo_labels
from asr_kd.training.training_context import TrainingJob


@dataclass(frozen=True)
class Selection:
    """Utterances that a run trains on."""

    utterances: list[Utterance]
    tokens: list[list[int] | None]
    """Transcripts; empty where none are needed, None for utterances with teacher targets only."""
    hypotheses: list[list[WeightedHypothesis]] | None
    """Pseudo-labels, where they are needed."""
    excluded: list[dict[str, str]]
    """A row for each excluded utterance, with the reason."""
    summary: str | None
    """Message about the pseudo-labels."""


def select(job: TrainingJob, objective: Objective) -> Selection:
    """Select utterances, tokens and pseudo-labels for training.

    Raises:
        TrainingError: hypotheses are needed and there are none.
    """
    utterances, tokens, excluded = select_trainable(job, objective.needs_references)
    if not objective.needs_hypotheses:
        return Selection(utterances, tokens, None, excluded, None)
    labels = pseudo_labels_of(job, utterances)
    kept = [(utterances[row], tokens[row]) for row in labels.rows]
    return Selection(
        [utterance for utterance, _ in kept],
        [row for _, row in kept],
        labels.hypotheses,
        [*excluded, *labels.excluded],
        f"trains on {labels.summary()}",
    )


def select_trainable(
    job: TrainingJob, needs_references: bool
) -> tuple[list[Utterance], list[list[int] | None], list[dict[str, str]]]:
    """Utterances that can be trained on, their tokens, and a row for each that cannot, with the reason."""
    usable, tokens, excluded = [], [], []
    alone = job.distill is not None and job.distill.untranscribed
    fastest = max(job.train.augmentation.speeds)
    for utterance in job.train_utterances:
        encoded: list[int] | None = []
        reason = None
        if needs_references:
            text = normalize(utterance.text or "", job.normalizer)
            unknown = job.vocabulary.unknown_characters(text)
            if not text and alone:
                encoded = None
            elif not text:
                reason = "empty transcript"
            elif unknown:
                reason = f"characters outside the vocabulary: {' '.join(unknown)}"
            else:
                encoded = job.vocabulary.encode(text)
                reason = _too_long(encoded, utterance.duration / fastest)
        if reason is None and job.store is not None and utterance.id not in job.store:
            reason = "no soft targets: see quarantine.jsonl beside them"
        if reason is None:
            usable.append(utterance)
            tokens.append(encoded)
        else:
            excluded.append({"id": utterance.id, "audio": str(utterance.audio), "reason": reason})
    return usable, tokens, excluded


def _too_long(tokens: Sequence[int], seconds: float) -> str | None:
    """Return why CTC cannot emit `tokens` in so much audio; None when it can."""
    frames = output_len(num_frames(int(seconds * SAMPLE_RATE)))
    needed = len(tokens) + sum(a == b for a, b in pairwise(tokens))
    if needed <= frames:
        return None
    return f"transcript needs {needed} frames of {FRAME_SHIFT_MS} ms, its audio has {frames} at the fastest speed"


def pseudo_labels_of(job: TrainingJob, utterances: Sequence[Utterance]) -> PseudoLabels:
    """Return the pseudo-labels of the utterances.

    Raises:
        TrainingError: there are no hypotheses.
    """
    if job.hypotheses is None or job.distill is None or job.distill.sequence is None:
        raise TrainingError(
            "level: sequence without hypotheses",
            where=job.name,
            expected="a teacher's hypotheses",
            remedy="Run the extract stage or `asr-kd targets import` first",
        )
    fastest = max(job.train.augmentation.speeds)
    return select_pseudo_labels(
        utterances,
        job.hypotheses,
        job.distill.sequence,
        job.vocabulary,
        job.normalizer,
        fits=lambda tokens, utterance: _too_long(tokens, utterance.duration / fastest) is None,
    )
