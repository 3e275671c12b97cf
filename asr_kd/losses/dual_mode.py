"""Dual mode: the same weights with full context are the teacher in chunks.

Source: Yu et al. 2021 ("Dual-mode ASR: unify and improve streaming ASR with full-context modeling"): weights shared,
both modes trained, the full-context one distilled into the streaming one in place. Here the full-context pass differs
in its attention alone: the convolutions of a streaming model stay causal, so that all weights are the same. Both passes
are made in every step, the full-context one on audio without masks.

Shapes: B utterances, T frames, V vocabulary.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from asr_kd.losses.base import Pass, Shape, StudentOutput, Supervision, Term
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.delayed_kl import DelayedKl
from asr_kd.losses.frame_kl import FrameKl, Selection
from asr_kd.losses.self_distillation import SelfDistillationSettings
from asr_kd.posteriors.types import DensePosteriors


class DualMode(Term):
    """c · CTC(q) + κ · D(sg(q) ‖ p), summed over the batch.

    q are the posteriors of the full-context pass, p those of the chunked one, D the kl: a frame KL with a fixed
    delay or with the best of several. sg stops the gradient: the full-context pass learns from CTC alone. The last
    frames, as many as the delay, have no counterpart and do not count: they are appended silence.

    Args:
        blank_id: the blank's index in the vocabulary.
        kl: D.
        ctc_weight: c.
        kl_weight: κ.
    """

    on_inner_heads = False
    needs_passes: tuple[Pass, ...] = ("full_context",)

    def __init__(self, blank_id: int, kl: FrameKl | DelayedKl, ctc_weight: float, kl_weight: float) -> None:
        super().__init__()
        self.blank_id, self.ctc_weight, self.kl_weight = blank_id, ctc_weight, kl_weight
        self.kl = kl
        self.delay_frames = kl.delay_frames
        self.needs_references = ctc_weight > 0

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """The loss, a float32 scalar."""
        full, references = student.passes.get("full_context"), supervision.references
        if full is None or (references is None and self.needs_references):
            raise ValueError("dual mode needs a full-context pass of the student, and references for its CTC")
        targets = DensePosteriors(full.log_probs.detach(), (full.lens - self.delay_frames).clamp_min(0))
        loss: Tensor = self.kl_weight * self.kl(student, Supervision(targets=targets))
        if references is None or not self.needs_references:
            return loss
        return loss + self.ctc_weight * ctc_loss(full.log_probs, full.lens, references, self.blank_id)


class DualModeSettings(SelfDistillationSettings):
    """The student with full context (attention over the whole utterance; convolutions stay causal) is its own teacher.

    Needs no teacher, a streaming student, and a second pass a step. The loss is (1 − λ)·CTC(chunks) + λ·weight·
    (ctc_weight·CTC(full context) + kl_weight·KL).

    Attributes:
        ctc_weight: of the full-context pass' CTC; 0 needs no transcripts, but then something else must train it.
        kl_weight: of the KL; 0 trains both modes by CTC alone.
        delay: the student is `delay_frames` later (`fixed`), or with each frame where it fits best among 0 to
            `delay_frames` (`minimum`).
        delay_frames: in output frames.
        selection: all frames, or those where the full-context pass's best token is not blank.
        dilation: frames added on either side of each selected frame (`selection: nonblank` only).
    """

    term: ClassVar[type[Term]] = DualMode

    delay: Literal["fixed", "minimum"] = "fixed"
    delay_frames: int = Field(default=0, ge=0, le=50)
    selection: Selection = "nonblank"
    dilation: int = Field(default=1, ge=0, le=20)

    def incompatibility(self, shape: Shape) -> str | None:
        """A student without chunks has no other mode."""
        return None if shape.streaming else "needs a streaming student (model.streaming): this one has no other mode"

    def build(self, shape: Shape) -> Term:
        """The objective."""
        kl: FrameKl | DelayedKl
        if self.delay == "fixed":
            kl = FrameKl(shape.blank_id, self.selection, self.dilation, self.delay_frames)
        else:
            delays = range(self.delay_frames + 1)
            kl = DelayedKl(shape.blank_id, "minimum", delays, selection=self.selection, dilation=self.dilation)
        return DualMode(shape.blank_id, kl, self.ctc_weight, self.kl_weight)
