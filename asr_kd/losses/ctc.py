"""CTC against transcripts (Graves 2006), and against a teacher's weighted hypotheses (sequence-level distillation).

Source of the latter: Takashima 2019; with one hypothesis of weight 1 it is training on pseudo-labels (distil-whisper).
Hypotheses are text, so teacher and student may differ in vocabulary, frame rate and kind.

Shapes: B utterances, T frames, V vocabulary, U tokens, N hypotheses of the whole batch.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from asr_kd.losses.base import (
    Hypotheses,
    References,
    Shape,
    StudentOutput,
    Supervision,
    Term,
    TermSettings,
    Untranscribed,
)


def ctc_loss(log_probs: Tensor, lens: Tensor, references: References, blank_id: int) -> Tensor:
    """−Σ log P(reference | log_probs) over the batch, a float32 scalar; see `ctc_losses`."""
    return ctc_losses(log_probs, lens, references, blank_id).sum()


def ctc_losses(log_probs: Tensor, lens: Tensor, references: References, blank_id: int) -> Tensor:
    """−log P(reference | log_probs) of each utterance, in float32.

    A reference that needs more frames than there are gives infinity; such utterances are excluded before training.
    Utterances without transcripts cost nothing.

    Args:
        log_probs: [B, T, V], any float type.
        lens: frames of each utterance, [B].
        references: tokens without blanks; an empty reference stands for blanks only.

    Returns:
        [B], in nats.
    """
    if isinstance(references, Untranscribed):
        return torch.zeros(len(log_probs), device=log_probs.device)
    return torch.nn.functional.ctc_loss(
        log_probs.float().transpose(0, 1),
        references.tokens.long(),
        lens.long().cpu(),  # where torch expects them; those of a batch already are
        references.lens.long().cpu(),
        blank=blank_id,
        reduction="none",
        zero_infinity=False,
    )


class Ctc(Term):
    """CTC as a term of the weighted sum."""

    needs_references = True

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        if supervision.references is None:
            raise ValueError("CTC needs references")
        return ctc_loss(student.log_probs, student.lens, supervision.references, self.blank_id)


def normalised_weights(hypotheses: Hypotheses, num_utterances: int) -> Tensor:
    """Weights [N] float32 that sum to 1 over the hypotheses of each utterance; 0 where all of them are 0."""
    weights = hypotheses.weights.float()
    totals = weights.new_zeros(num_utterances).index_add(0, hypotheses.rows, weights)
    return weights / totals.clamp_min(torch.finfo(torch.float32).tiny)[hypotheses.rows]


class SequenceCtc(Term):
    """Σ_k w_k · CTC(hypothesis k) with Σ_k w_k = 1 for each utterance, summed over the batch.

    An utterance without hypotheses adds nothing; a hypothesis that needs more frames than there are gives infinity, as
    a transcript does in CTC, and is therefore left out before training.
    """

    needs_hypotheses = True

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        log_probs, lens = student.log_probs, student.lens
        hypotheses = supervision.hypotheses
        if hypotheses is None:
            raise ValueError("sequence-level distillation needs hypotheses")
        num_utterances = log_probs.shape[0]
        if hypotheses.rows.numel() == 0:
            return log_probs[:0].float().sum()  # 0 that a gradient can go through
        weights, rows = normalised_weights(hypotheses, num_utterances), hypotheses.rows
        # One of weight 0 counts as empty, which is always possible: 0 · ∞ would be NaN, in the gradient at least.
        references = References(hypotheses.tokens, hypotheses.lens.masked_fill(weights == 0, 0))
        repeated = log_probs[rows.to(log_probs.device, non_blocking=True)]
        losses = ctc_losses(repeated, lens[rows.to(lens.device)], references, self.blank_id)
        return (weights.to(losses.device, non_blocking=True) * losses).sum()


class SequenceSettings(TermSettings):
    """Weighted CTC against a teacher's hypotheses, which may come from any system with any vocabulary.

    Attributes:
        hypotheses: of an utterance, the best so many.
        score_temperature: weights are the softmax of the hypotheses' scores divided by this.
        max_hypothesis_wer: hypotheses further than this from the transcript, where there is one, are left out (a
            fraction); None keeps all.
    """

    term: ClassVar[type[Term]] = SequenceCtc

    hypotheses: int = Field(default=4, ge=1, le=100)
    score_temperature: float = Field(default=1.0, gt=0.0, le=1000.0)
    max_hypothesis_wer: float | None = Field(default=None, ge=0.0)

    def build(self, shape: Shape) -> Term:
        return SequenceCtc(shape.blank_id)
