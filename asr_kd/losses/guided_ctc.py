"""Guided CTC: the student's spikes are pulled onto the frames where its teacher has them.

Source: Kurata & Audhkhasi 2019 ("Guiding CTC posterior spike timings for improved posterior fusion and knowledge
distillation"), with the logarithm of the posterior, as in CTC itself.

Shapes: B utterances, T frames of the student, Q frames of the teacher, V vocabulary.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from asr_kd.losses.base import Shape, StudentOutput, Supervision, Term, TermSettings
from asr_kd.losses.frame_kl import check_vocabulary, select_frames, teacher_frames
from asr_kd.posteriors.measures import LOWEST_LOG_PROB
from asr_kd.posteriors.types import DensePosteriors


class GuidedCtc(Term):
    """−Σ_t 1[argmax q_t ≠ ∅] · log p_{t+delay}(argmax q_t), summed over the batch.

    Frames where the best token is blank do not count, so it stands beside CTC or a KL that trains them.
    """

    needs_targets = True

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
    """The student's spikes on its teacher's.

    Attributes:
        delay_frames: the student is that many output frames later than its teacher.
    """

    term: ClassVar[type[Term]] = GuidedCtc

    delay_frames: int = Field(default=0, ge=0, le=50)

    @property
    def trains_blanks(self) -> bool:
        """Blanks do not count."""
        return False

    def build(self, shape: Shape) -> Term:
        return GuidedCtc(shape.blank_id, self.delay_frames)
