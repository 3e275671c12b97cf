"""Consistency regularisation (CR-CTC): two views of a batch, under other masks and dropout, must agree.

Source: Yao et al. 2024 ("CR-CTC: Consistency regularization on CTC for improved speech recognition"). No
teacher is needed.

Shapes: B utterances, T frames, V vocabulary.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from asr_kd.losses.base import Pass, Shape, StudentOutput, Supervision, Term
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.self_distillation import SelfDistillationSettings
from asr_kd.posteriors.measures import dense_kl, frame_mask


class Consistency(Term):
    """c · CTC(b) + α · Σ_t [KL(sg(b_t) ‖ a_t) + KL(sg(a_t) ‖ b_t)], summed over the batch.

    a are the posteriors of the first view, whose CTC is the weighted sum's own, b those of the second; sg stops the
    gradient, so that each view is drawn to the other as it is. Frames of appended silence count.

    Args:
        blank_id: the blank's index in the vocabulary.
        ctc_weight: c.
        kl_weight: α.
    """

    on_inner_heads = False
    needs_passes: tuple[Pass, ...] = ("second_view",)

    def __init__(self, blank_id: int, ctc_weight: float = 1.0, kl_weight: float = 0.2) -> None:
        super().__init__()
        self.blank_id, self.ctc_weight, self.kl_weight = blank_id, ctc_weight, kl_weight
        self.needs_references = ctc_weight > 0

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """The loss, a float32 scalar."""
        other, references = student.passes.get("second_view"), supervision.references
        if other is None or (references is None and self.needs_references):
            raise ValueError("consistency needs a second view of the batch, and references for its CTC")
        first, second = student.log_probs, other.log_probs
        apart = dense_kl(second.detach(), first) + dense_kl(first.detach(), second)
        valid = frame_mask(student.lens, first.shape[1], first.device)
        loss = self.kl_weight * apart.masked_fill(~valid, 0.0).sum()
        if references is None or not self.needs_references:
            return loss
        return loss + self.ctc_weight * ctc_loss(second, other.lens, references, self.blank_id)


class ConsistencySettings(SelfDistillationSettings):
    """Two views of each utterance under other masks and dropout, each trained towards the other (CR-CTC).

    Needs no teacher, and a second pass a step. With λ = 0.5 and the defaults it is the paper's loss,
    ½·(CTC(a) + CTC(b)) + 0.2·½·(KL + KL). With another λ, `ctc_weight: (1 − λ) / (λ·weight)` gives both views the same
    CTC; with 1 and no other objective, the shares of CTC sum to 1 for every λ.

    Attributes:
        ctc_weight: of the second view's CTC, beside the first view's, which has 1 − λ; 0 needs no transcripts.
        kl_weight: of the KL in both directions (the paper's α).
    """

    term: ClassVar[type[Term]] = Consistency

    kl_weight: float = Field(default=0.2, ge=0.0, le=1000.0)

    def build(self, shape: Shape) -> Term:
        """The objective."""
        return Consistency(shape.blank_id, self.ctc_weight, self.kl_weight)
