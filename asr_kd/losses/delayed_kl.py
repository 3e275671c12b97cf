"""KL divergence to a teacher's posteriors that lets the student be later than its teacher.

A student that streams has no access to the future that its teacher saw, so a delay d is chosen between a least and a
most one: for each frame, softly for each frame, for each utterance, or by a distribution that is learned along.
Sources: Kurata & Saon 2020 (the minimum over alignments); Delayed-KD 2025 (a limited delay for streaming CTC). A fixed
delay is `frame_kl`'s.

Shapes: B utterances, T frames of the student, Q frames of the teacher, V vocabulary, D delays.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from asr_kd.losses.base import Shape, StudentOutput, Supervision, Term, TermSettings
from asr_kd.losses.frame_kl import Selection, delayed_divergences, select_frames, teacher_frames

Mode = Literal["minimum", "soft_minimum", "utterance", "learned"]


class DelayedKl(Term):
    """Σ_t m_t · Σ_d w_td · KL(q_t ‖ p_{t+d}), summed over the batch; w is constant in the gradient.

    With K_td = KL(q_t ‖ p_{t+d}) and m as in `frame_kl`:

    - minimum: w_td = 1 at argmin_d K_td, else 0.
    - soft_minimum: w_td = softmax_d(−β·K_td).
    - utterance: w_td = 1 at argmin_d Σ_t m_t·K_td, else 0.
    - learned: Σ_t m_t · −log Σ_d π_d·exp(−K_td) with π = softmax(θ) learned: the delay of a frame is a hidden variable.
      No more than the KL expected under π, never negative, and 0 when every delay that π allows fits.

    The delays of a frame need not follow each other in order; of two that fit equally well the smaller one is taken.

    Args:
        delays: those to choose from, in frames; consecutive, at least one.
        sharpness: β.
        selection: which of the teacher's frames count (m).
        dilation: frames added on either side of each selected frame.
    """

    needs_targets = True

    def __init__(
        self,
        blank_id: int,
        mode: Mode,
        delays: range,
        sharpness: float = 1.0,
        selection: Selection = "nonblank",
        dilation: int = 1,
    ) -> None:
        super().__init__(blank_id)
        self.mode, self.delays, self.sharpness = mode, delays, sharpness
        self.selection, self.dilation = selection, dilation
        self.delay_frames = delays[-1]
        if mode == "learned":
            self.logits = nn.Parameter(torch.zeros(len(delays)))

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """The loss, a float32 scalar.

        Raises:
            TrainingError: the student is too short for the largest delay, or the vocabularies differ in size.
        """
        frames = teacher_frames(student, supervision, self.delay_frames)
        mask = select_frames(frames.argmax, frames.lens, self.blank_id, self.selection, self.dilation)
        divergences = delayed_divergences(frames.targets, student.log_probs, self.delays)  # [D, B, Q]
        return self._chosen(divergences.masked_fill(~mask, 0.0)).sum()

    def _chosen(self, divergences: Tensor) -> Tensor:
        """[B, Q], or [B] by utterance, of [D, B, Q]."""
        if self.mode == "minimum":
            return divergences.gather(0, divergences.argmin(0, keepdim=True))
        if self.mode == "utterance":
            together = divergences.sum(-1)
            return together.gather(0, together.argmin(0, keepdim=True))
        if self.mode == "learned":
            prior = self.logits.float().log_softmax(0)[:, None, None]
            return -(prior - divergences).logsumexp(0)
        weights = (-self.sharpness * divergences.detach()).softmax(0)
        return (weights * divergences).sum(0)


class DelayedKlSettings(TermSettings):
    """KL to the teacher's posteriors, each frame at one of several delays.

    Attributes:
        mode: how the delay is chosen. `minimum`: the best of each frame; `soft_minimum`: delays of a frame weighted by
            how well they fit; `utterance`: the best of all selected frames of an utterance together; `learned`: a
            distribution over delays, learned along, is what a frame's delay is drawn from.
        min_delay_frames: the least delay to choose from, in output frames.
        max_delay_frames: the largest delay to choose from; so much silence follows the audio.
        sharpness: of `soft_minimum` (β): 0 weighs all delays equally, a large one is `minimum`.
        selection: all frames, or those where the teacher's best token is not blank.
        dilation: frames added on either side of each selected frame (`selection: nonblank` only).
    """

    term: ClassVar[type[Term]] = DelayedKl

    mode: Mode = "minimum"
    min_delay_frames: int = Field(default=0, ge=0, le=50)
    max_delay_frames: int = Field(default=3, ge=0, le=50)
    sharpness: float = Field(default=1.0, ge=0.0, le=1000.0)
    selection: Selection = "nonblank"
    dilation: int = Field(default=1, ge=0, le=20)

    @model_validator(mode="after")
    def _delays_in_order(self) -> "DelayedKlSettings":
        if self.min_delay_frames > self.max_delay_frames:
            raise ValueError(
                f"min_delay_frames {self.min_delay_frames} is above max_delay_frames {self.max_delay_frames}"
            )
        return self

    @property
    def trains_blanks(self) -> bool:
        """Not with pure blank elimination."""
        return self.selection == "all" or self.dilation > 0

    def build(self, shape: Shape) -> Term:
        delays = range(self.min_delay_frames, self.max_delay_frames + 1)
        return DelayedKl(shape.blank_id, self.mode, delays, self.sharpness, self.selection, self.dilation)
