"""CTC against transcripts (Graves 2006), against a teacher's weighted hypotheses, and guided by a teacher's spikes.

Sources: Takashima 2019 (hypotheses; with one of weight 1 it is training on pseudo-labels, as distil-whisper's); Kurata
& Audhkhasi 2019 (guided CTC, with the logarithm of the posterior, as in CTC itself). Hypotheses are text, so teacher
and student may differ in vocabulary, frame rate and kind.

Shapes: B utterances, T frames of the student, Q frames of the teacher, V vocabulary, U tokens, N hypotheses of the
whole batch.
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
from asr_kd.losses.frame_kl import check_vocabulary, select_frames, teacher_frames
from asr_kd.posteriors.types import LOWEST_LOG_PROB, DensePosteriors


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
        hypotheses: the largest number of hypotheses of an utterance; the best are used.
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


class GuidedCtc(Term):
    """−Σ_t 1[argmax q_t ≠ ∅] · log p_{t+delay}(argmax q_t), summed over the batch.

    Frames where the teacher's best token is blank do not count, so it needs CTC or a KL beside it that trains blanks.
    """

    needs_targets = True
    trains_blanks = False

    def __init__(self, blank_id: int, delay_frames: int = 0) -> None:
        super().__init__(blank_id)
        self.delay_frames = delay_frames

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """The loss, a float32 scalar.

        Raises:
            TrainingError: the student is too short, or the vocabularies differ in size.
        """
        log_probs = student.log_probs
        frames = teacher_frames(student, supervision, self.delay_frames)
        if isinstance(frames.targets, DensePosteriors):
            check_vocabulary(frames.targets.log_probs, log_probs)
        shifted = log_probs[:, self.delay_frames : self.delay_frames + frames.argmax.shape[1]]
        shifted = shifted.float().log_softmax(-1).clamp_min(LOWEST_LOG_PROB)
        spiked = shifted.gather(-1, frames.argmax[..., None]).squeeze(-1)
        spikes = select_frames(frames.argmax, frames.lens, self.blank_id, "nonblank", dilation=0)
        return -spiked.masked_fill(~spikes, 0.0).sum()


class GuidedCtcSettings(TermSettings):
    """Cross entropy at the frames where the teacher emits a token, so that the student emits the same token there.

    Attributes:
        delay_frames: the student is that many output frames later than its teacher.
    """

    term: ClassVar[type[Term]] = GuidedCtc

    delay_frames: int = Field(default=0, ge=0, le=50)

    def build(self, shape: Shape) -> Term:
        return GuidedCtc(shape.blank_id, self.delay_frames)
