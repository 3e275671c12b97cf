"""Pseudo-labels: filter a teacher's hypotheses and turn them into tokens with weights; drops are counted by reason."""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from asr_kd.corpora.manifest import Utterance
from asr_kd.losses import Hypotheses, SequenceSettings
from asr_kd.scoring.wer import score
from asr_kd.targets.hypotheses import Hypothesis, HypothesisStore, weights_of
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import Vocabulary


class WeightedHypothesis(NamedTuple):
    """Tokens of a hypothesis and its weight in the loss."""

    tokens: Sequence[int]
    weight: float


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
        """Return a message with the counts."""
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
    """Return the best usable hypotheses of each utterance.

    Args:
        utterances: those to train on; transcripts serve `max_hypothesis_wer` alone.
        store: hypotheses of a teacher.
        settings: how many, how weighted, how far from the transcript.
        vocabulary: the student's.
        normalizer: of the transcripts and of the store's texts.
        fits: whether CTC can emit these tokens in that utterance's audio.
    """
    labels = PseudoLabels()
    for row, utterance in enumerate(utterances):
        found = store.get(utterance.id)
        usable, reasons = _usable(found or [], utterance, settings, vocabulary, normalizer, fits)
        labels.dropped.update(reasons)
        if usable:
            weights = weights_of([hypothesis for hypothesis, _ in usable], settings.score_temperature)
            labels.rows.append(row)
            labels.hypotheses.append(
                [WeightedHypothesis(tokens, w) for (_, tokens), w in zip(usable, weights, strict=True)]
            )
        else:
            reason = _why_nothing(found, reasons)
            labels.excluded.append({"id": utterance.id, "audio": str(utterance.audio), "reason": reason})
    return labels


def collate_hypotheses(hypotheses: Sequence[Sequence[WeightedHypothesis]]) -> Hypotheses:
    """Concatenate the hypotheses of a batch."""
    flat = [(row, item) for row, items in enumerate(hypotheses) for item in items]
    tokens = torch.zeros(len(flat), max((len(item.tokens) for _, item in flat), default=0), dtype=torch.int64)
    for index, (_, item) in enumerate(flat):
        tokens[index, : len(item.tokens)] = torch.tensor(item.tokens, dtype=torch.int64)
    return Hypotheses(
        tokens,
        torch.tensor([len(item.tokens) for _, item in flat], dtype=torch.int64),
        torch.tensor([row for row, _ in flat], dtype=torch.int64),
        torch.tensor([item.weight for _, item in flat], dtype=torch.float32),
    )


def _usable(
    hypotheses: Sequence[Hypothesis],
    utterance: Utterance,
    settings: SequenceSettings,
    vocabulary: Vocabulary,
    normalizer: Normalizer,
    fits: Callable[[Sequence[int], Utterance], bool],
) -> tuple[list[tuple[Hypothesis, Sequence[int]]], list[str]]:
    """Return the best usable hypotheses with tokens, and the reasons for those left out."""
    usable: list[tuple[Hypothesis, Sequence[int]]] = []
    reasons: list[str] = []
    errors = _word_error_rates(hypotheses, utterance, settings, normalizer)
    for hypothesis, wer in zip(hypotheses, errors, strict=True):
        tokens, reason = _tokens(hypothesis, wer, settings, vocabulary)
        if reason is None and not fits(tokens, utterance):
            reason = "too long for CTC in its audio"
        if reason is not None:
            reasons.append(reason)
        elif len(usable) < settings.hypotheses:
            usable.append((hypothesis, tokens))
    return usable, reasons


def _why_nothing(found: Sequence[Hypothesis] | None, reasons: Sequence[str]) -> str:
    if found is None:
        return "no hypotheses: see quarantine.jsonl beside them"
    if not found:
        return "the teacher recognised no word in it"
    return f"no usable hypothesis: {', '.join(sorted(set(reasons)))}"


def _tokens(
    hypothesis: Hypothesis, wer: float | None, settings: SequenceSettings, vocabulary: Vocabulary
) -> tuple[Sequence[int], str | None]:
    """Return tokens of a hypothesis, or the reason why it is left out."""
    if wer is not None and settings.max_hypothesis_wer is not None and wer > settings.max_hypothesis_wer:
        return array("i"), "too far from the transcript (max_hypothesis_wer)"
    if vocabulary.unknown_characters(hypothesis.text):
        return array("i"), "characters outside the vocabulary"
    return array("i", vocabulary.encode(hypothesis.text)), None


def _word_error_rates(
    hypotheses: Sequence[Hypothesis], utterance: Utterance, settings: SequenceSettings, normalizer: Normalizer
) -> list[float | None]:
    """Return the WER of each hypothesis against the transcript; None without a limit or a transcript."""
    reference = normalize(utterance.text or "", normalizer)
    if settings.max_hypothesis_wer is None or not reference.strip() or not hypotheses:
        return [None] * len(hypotheses)
    texts = {str(index): item.text for index, item in enumerate(hypotheses)}
    scored = score(dict.fromkeys(texts, reference), texts, "none")
    return [scored.utterances[index].words.wer for index in texts]
