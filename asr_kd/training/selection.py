"""Selection of training utterances: tokens and pseudo-labels of each; the others are listed with the reason.

Pseudo-labels are a teacher's hypotheses that pass the filters of `SequenceSettings`, as tokens with weights.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TrainingError
from asr_kd.features.fbank import SAMPLE_RATE, num_frames
from asr_kd.losses import Objective, SequenceSettings
from asr_kd.models.layers import FRAME_SHIFT_MS, output_len
from asr_kd.scoring.wer import score
from asr_kd.targets.hypotheses import HypothesisStore, TextHypothesis, weights_of
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import Vocabulary, min_ctc_frames
from asr_kd.training.batch import WeightedHypothesis
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
    needed = min_ctc_frames(tokens)
    if needed <= frames:
        return None
    return f"transcript needs {needed} frames of {FRAME_SHIFT_MS} ms, its audio has {frames} at the fastest speed"


@dataclass
class PseudoLabels:
    """Hypotheses that passed the filters."""

    rows: list[int] = field(default_factory=list)
    """Indices of the utterances with at least one hypothesis."""
    hypotheses: list[list[WeightedHypothesis]] = field(default_factory=list)
    """Hypotheses of each of these utterances."""
    excluded: list[dict[str, str]] = field(default_factory=list)
    """The other utterances, with the reason."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Hypotheses that were left out, by reason."""

    def summary(self) -> str:
        kept = sum(map(len, self.hypotheses))
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{kept} hypotheses of {len(self.rows)} utterances" + (f"; left out: {left_out}" if left_out else "")


def select_pseudo_labels(
    utterances: Sequence[Utterance],
    store: HypothesisStore,
    settings: SequenceSettings,
    vocabulary: Vocabulary,
    normalizer: Normalizer,
    fits: Callable[[Sequence[int], Utterance], bool],
) -> PseudoLabels:
    """Return the best usable hypotheses of each utterance; `fits` states whether CTC can emit tokens in its audio."""
    labels = PseudoLabels()
    for row, utterance in enumerate(utterances):
        found = store.get(utterance.id)
        usable: list[tuple[TextHypothesis, array[int]]] = []
        reasons: list[str] = []
        rates = _word_error_rates(found or [], utterance, settings, normalizer)
        for hypothesis, wer in zip(found or [], rates, strict=True):
            tokens = array("i")
            if wer is not None and settings.max_hypothesis_wer is not None and wer > settings.max_hypothesis_wer:
                reasons.append("too far from the transcript (max_hypothesis_wer)")
            elif vocabulary.unknown_characters(hypothesis.text):
                reasons.append("characters outside the vocabulary")
            elif not fits(tokens := array("i", vocabulary.encode(hypothesis.text)), utterance):
                reasons.append("too long for CTC in its audio")
            else:
                usable.append((hypothesis, tokens))
        usable = usable[: settings.hypotheses]
        labels.dropped.update(reasons)
        if usable:
            weights = weights_of([hypothesis for hypothesis, _ in usable], settings.score_temperature)
            weighted = [WeightedHypothesis(tokens, w) for (_, tokens), w in zip(usable, weights, strict=True)]
            labels.rows.append(row)
            labels.hypotheses.append(weighted)
            continue
        if found is None:
            reason = "no hypotheses: see quarantine.jsonl beside them"
        elif not found:
            reason = "the teacher recognised no word in it"
        else:
            reason = f"no usable hypothesis: {', '.join(sorted(set(reasons)))}"
        labels.excluded.append({"id": utterance.id, "audio": str(utterance.audio), "reason": reason})
    return labels


def _word_error_rates(
    hypotheses: Sequence[TextHypothesis], utterance: Utterance, settings: SequenceSettings, normalizer: Normalizer
) -> list[float | None]:
    """Return the WER of each hypothesis against the transcript; None without a limit or a transcript."""
    reference = normalize(utterance.text or "", normalizer)
    if settings.max_hypothesis_wer is None or not reference.strip() or not hypotheses:
        return [None] * len(hypotheses)
    texts = {str(index): item.text for index, item in enumerate(hypotheses)}
    scored = score(dict.fromkeys(texts, reference), texts, "none")
    return [scored.utterances[index].words.rate for index in texts]


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
