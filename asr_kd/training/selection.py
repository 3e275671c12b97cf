"""Selection of training utterances: tokens and pseudo-labels of each; the others are listed with the reason.

Pseudo-labels are a teacher's hypotheses that pass the filters of `SequenceSettings`, as tokens with weights.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TrainingError
from asr_kd.features.fbank import SAMPLE_RATE, num_frames
from asr_kd.losses import Objective
from asr_kd.models.layers import FRAME_SHIFT_MS, output_len
from asr_kd.scoring.wer import score
from asr_kd.targets.hypotheses import TextHypothesis, weights_of
from asr_kd.text.normalize import normalize
from asr_kd.text.vocabulary import min_ctc_frames
from asr_kd.training.batch import WeightedHypothesis
from asr_kd.training.training_job import TrainingJob


@dataclass
class Selection:
    """Utterances that a run trains on; the lists have an entry for each of them, unless stated otherwise."""

    utterances: list[Utterance] = field(default_factory=list)
    tokens: list[list[int] | None] = field(default_factory=list)
    """Transcript; empty where none is needed, None for an utterance with teacher targets only."""
    hypotheses: list[list[WeightedHypothesis]] = field(default_factory=list)
    """Pseudo-labels; empty where none are needed."""
    excluded: list[dict[str, str]] = field(default_factory=list)
    """A row for each excluded utterance, with the reason."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Hypotheses that were left out, by reason."""

    def summary(self) -> str:
        """Return the numbers of pseudo-labels."""
        kept = sum(map(len, self.hypotheses))
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        summary = f"{kept} hypotheses of {len(self.utterances)} utterances"
        return f"{summary}; left out: {left_out}" if left_out else summary


def select(job: TrainingJob, objective: Objective) -> Selection:
    """Select utterances, tokens and pseudo-labels for training.

    Raises:
        TrainingError: hypotheses are needed and there are none.
    """
    found = Selection()
    for utterance in job.train_utterances:
        tokens, reason = _tokens(job, utterance) if objective.needs_references else ([], None)
        reason = reason or _too_short(job, tokens or (), utterance)
        labels: list[WeightedHypothesis] = []
        if reason is None and job.store is not None and utterance.id not in job.store:
            reason = "no soft targets: see quarantine.jsonl beside them"
        if reason is None and objective.needs_hypotheses:
            labels, reason = _pseudo_labels(job, utterance, found.dropped)
        if reason is None:
            found.utterances.append(utterance)
            found.tokens.append(tokens)
            found.hypotheses.append(labels)
        else:
            found.excluded.append({"id": utterance.id, "audio": str(utterance.audio), "reason": reason})
    return found


def _tokens(job: TrainingJob, utterance: Utterance) -> tuple[list[int] | None, str | None]:
    """The transcript as tokens, None where the teacher's targets suffice; and why it cannot be trained on, or None."""
    text = normalize(utterance.text or "", job.normalizer)
    unknown = job.vocabulary.unknown_characters(text)
    if not text:
        alone = job.distill is not None and job.distill.untranscribed
        return None, None if alone else "empty transcript"
    if unknown:
        return [], f"characters outside the vocabulary: {' '.join(unknown)}"
    return job.vocabulary.encode(text), None


def _too_short(job: TrainingJob, tokens: Sequence[int], utterance: Utterance) -> str | None:
    """Return why CTC cannot emit `tokens`, maybe none, in the utterance's audio; None when it can."""
    seconds = utterance.duration / max(job.train.augmentation.speeds)
    frames = output_len(num_frames(int(seconds * SAMPLE_RATE)))
    needed = min_ctc_frames(tokens)
    if needed <= frames:
        return None if frames else f"too short: no frame of {FRAME_SHIFT_MS} ms at the fastest speed"
    return f"transcript needs {needed} frames of {FRAME_SHIFT_MS} ms, its audio has {frames} at the fastest speed"


def _pseudo_labels(
    job: TrainingJob, utterance: Utterance, dropped: Counter[str]
) -> tuple[list[WeightedHypothesis], str | None]:
    """The best usable hypotheses of an utterance; why there are none, or None. Adds the others to `dropped`."""
    settings = job.distill.sequence if job.distill is not None else None
    if job.hypotheses is None or settings is None:
        raise TrainingError(
            "level: sequence without hypotheses",
            where=job.name,
            expected="a teacher's hypotheses",
            remedy="Run the extract stage or `asr-kd targets import` first",
        )
    found = job.hypotheses.get(utterance.id)
    if not found:
        return [], (
            "no hypotheses: see quarantine.jsonl beside them"
            if found is None
            else "the teacher recognised no word in it"
        )
    usable: list[tuple[TextHypothesis, array[int]]] = []
    reasons: list[str] = []
    limit = settings.max_hypothesis_wer
    for hypothesis, wer in zip(found, _word_error_rates(job, found, utterance, limit), strict=True):
        tokens = array("i")
        if wer is not None and limit is not None and wer > limit:
            reasons.append("too far from the transcript (max_hypothesis_wer)")
        elif job.vocabulary.unknown_characters(hypothesis.text):
            reasons.append("characters outside the vocabulary")
        elif _too_short(job, tokens := array("i", job.vocabulary.encode(hypothesis.text)), utterance):
            reasons.append("too long for CTC in its audio")
        else:
            usable.append((hypothesis, tokens))
    dropped.update(reasons)
    usable = usable[: settings.hypotheses]
    if not usable:
        return [], f"no usable hypothesis: {', '.join(sorted(set(reasons)))}"
    weights = weights_of([hypothesis for hypothesis, _ in usable], settings.score_temperature)
    return [WeightedHypothesis(tokens, weight) for (_, tokens), weight in zip(usable, weights, strict=True)], None


def _word_error_rates(
    job: TrainingJob, hypotheses: Sequence[TextHypothesis], utterance: Utterance, limit: float | None
) -> list[float | None]:
    """Return the WER of each hypothesis against the transcript; None without a limit or a transcript."""
    reference = normalize(utterance.text or "", job.normalizer)
    if limit is None or not reference.strip():
        return [None] * len(hypotheses)
    texts = {str(index): item.text for index, item in enumerate(hypotheses)}
    scored = score(dict.fromkeys(texts, reference), texts, "none")
    return [scored.utterances[index].words.rate for index in texts]
