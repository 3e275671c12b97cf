"""Self-distillation: KL between two forward passes of the student; no teacher is needed.

- `Consistency` (CR-CTC, Yao et al. 2024): two views of a batch, under other masks and dropout.
- `DualMode` (Yu et al. 2021): the full-context pass is the teacher of the chunked pass, with the same weights. Only
  attention differs: the convolutions of a streaming model stay causal. The full-context pass has no masks.

Shapes: B utterances, T frames, V vocabulary.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from asr_kd.losses.base import Pass, Shape, StudentOutput, Supervision, Term, TermSettings
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.frame_kl import DelayedKl, FrameKl, SelectionSettings
from asr_kd.posteriors.measures import dense_kl, frame_mask
from asr_kd.posteriors.types import DensePosteriors


class SelfDistillationSettings(TermSettings):
    """CTC on a further pass, and a KL between the passes.

    Attributes:
        ctc_weight: weight of CTC on the further pass; 0 needs no transcripts.
        kl_weight: weight of the KL.
    """

    ctc_weight: float = Field(default=1.0, ge=0.0, le=1000.0)
    kl_weight: float = Field(default=1.0, ge=0.0, le=1000.0)

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.ctc_weight == 0.0 and self.kl_weight == 0.0:
            raise ValueError("ctc_weight and kl_weight are both 0: nothing would be learned")
        return self

    @property
    def trains_blanks(self) -> bool:
        """Not without CTC on the other pass: two passes may agree on anything."""
        return self.needs_references

    @property
    def needs_references(self) -> bool:
        return self.ctc_weight > 0.0


class Consistency(Term):
    """c · CTC(b) + α · Σ_t [KL(sg(b_t) ‖ a_t) + KL(sg(a_t) ‖ b_t)], summed over the batch.

    a are the posteriors of the first view, whose CTC is the weighted sum's own, b those of the second; sg stops the
    gradient, so each view is a fixed target of the other. Frames of appended silence count. c is `ctc_weight`, α
    `kl_weight`.
    """

    on_inner_heads = False
    needs_passes: tuple[Pass, ...] = ("second_view",)

    def __init__(self, blank_id: int, ctc_weight: float = 1.0, kl_weight: float = 0.2) -> None:
        super().__init__(blank_id)
        self.ctc_weight, self.kl_weight = ctc_weight, kl_weight
        self.needs_references = ctc_weight > 0

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
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
    """Two views of each utterance, with different masks and dropout, each trained towards the other (CR-CTC).

    Needs no teacher, and a second pass a step. With λ = 0.5 and the defaults it is the paper's loss,
    ½·(CTC(a) + CTC(b)) + 0.2·½·(KL + KL). With another λ, `ctc_weight: (1 − λ) / (λ·weight)` gives both views the same
    CTC; with 1 and no other objective, the shares of CTC sum to 1 for every λ.

    Attributes:
        ctc_weight: weight of CTC on the second view; that of the first view is 1 − λ; 0 needs no transcripts.
        kl_weight: weight of the KL in both directions (the paper's α).
    """

    term: ClassVar[type[Term]] = Consistency

    kl_weight: float = Field(default=0.2, ge=0.0, le=1000.0)

    def build(self, shape: Shape) -> Term:
        return Consistency(shape.blank_id, self.ctc_weight, self.kl_weight)


class DualMode(Term):
    """c · CTC(q) + κ · D(sg(q) ‖ p), summed over the batch.

    q are the posteriors of the full-context pass, p those of the chunked one, D a frame KL with a fixed delay or with
    the best of several. sg stops the gradient: the full-context pass is trained by CTC alone. The last frames, as many
    as the delay, have no counterpart and do not count: they are appended silence.

    Args:
        kl: D.
        ctc_weight: c.
        kl_weight: κ.
    """

    on_inner_heads = False
    needs_passes: tuple[Pass, ...] = ("full_context",)

    def __init__(self, blank_id: int, kl: FrameKl, ctc_weight: float, kl_weight: float) -> None:
        super().__init__(blank_id)
        self.ctc_weight, self.kl_weight, self.kl = ctc_weight, kl_weight, kl
        self.delay_frames = kl.delay_frames
        self.needs_references = ctc_weight > 0

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        full, references = student.passes.get("full_context"), supervision.references
        if full is None or (references is None and self.needs_references):
            raise ValueError("dual mode needs a full-context pass of the student, and references for its CTC")
        targets = DensePosteriors(full.log_probs.detach(), (full.lens - self.delay_frames).clamp_min(0))
        loss: Tensor = self.kl_weight * self.kl(student, Supervision(targets=targets))
        if references is None or not self.needs_references:
            return loss
        return loss + self.ctc_weight * ctc_loss(full.log_probs, full.lens, references, self.blank_id)


class DualModeSettings(SelfDistillationSettings, SelectionSettings):
    """The student with full context (attention over the whole utterance; convolutions stay causal) is its own teacher.

    Needs no teacher, a streaming student, and a second pass a step. The loss is (1 − λ)·CTC(chunks) + λ·weight·
    (ctc_weight·CTC(full context) + kl_weight·KL).

    Attributes:
        ctc_weight: weight of CTC on the full-context pass; 0 needs no transcripts, but then another objective must
            train this pass.
        kl_weight: weight of the KL; 0 trains both modes by CTC alone.
        delay: the delay of the student in chunks: `delay_frames` (`fixed`), or for each frame the best one from 0 to
            `delay_frames` (`minimum`).
        delay_frames: the delay, or the largest one, in output frames.
    """

    term: ClassVar[type[Term]] = DualMode

    delay: Literal["fixed", "minimum"] = "fixed"
    delay_frames: int = Field(default=0, ge=0, le=50)

    def incompatibility(self, shape: Shape) -> str | None:
        """A student without chunks has no other mode."""
        return None if shape.streaming else "needs a streaming student (model.streaming): this one has no other mode"

    def build(self, shape: Shape) -> Term:
        if self.delay == "fixed":
            kl = FrameKl(shape.blank_id, self.selection, self.dilation, self.delay_frames)
        else:
            delays = range(self.delay_frames + 1)
            kl = DelayedKl(shape.blank_id, "minimum", delays, selection=self.selection, dilation=self.dilation)
        return DualMode(shape.blank_id, kl, self.ctc_weight, self.kl_weight)
