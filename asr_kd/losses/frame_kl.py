"""Frame-level KL divergence to a teacher's posteriors, on selected frames and with a fixed delay.

Sources: Hinton 2015 (KL, temperature); Tian 2022 and Hilmes 2025 (blank elimination and its symmetric widening);
a fixed shift is the simplest of the delay-tolerant forms of Kurata & Saon 2020.

Shapes: B utterances, T frames of the student, Q frames of the teacher, V vocabulary, K kept entries a frame.
"""

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from asr_kd.errors import TrainingError
from asr_kd.losses.base import Shape, StudentOutput, Supervision, Term, TermSettings
from asr_kd.posteriors.measures import delayed_dense_kl, delayed_sparse_kl, frame_mask
from asr_kd.posteriors.types import DensePosteriors, SoftTargets

Selection = Literal["all", "nonblank"]


def select_frames(argmax: Tensor, lens: Tensor, blank_id: int, selection: Selection, dilation: int) -> Tensor:
    """Return the mask of the teacher's frames that count.

    Args:
        argmax: the teacher's most probable tokens, [B, Q].
        lens: the teacher's frames, [B].
        dilation: frames added on either side of each selected one; 0 is pure blank elimination.

    Returns:
        [B, Q] bool, False at padding.
    """
    valid = frame_mask(lens, argmax.shape[1], argmax.device)
    if selection == "all":
        return valid
    selected = (argmax != blank_id) & valid
    if dilation and selected.numel():
        widened = torch.nn.functional.max_pool1d(selected.float(), 2 * dilation + 1, stride=1, padding=dilation)
        selected = widened.bool()
    return selected & valid


class TeacherFrames(NamedTuple):
    """A teacher's posteriors of a batch, up to the end of its longest utterance."""

    targets: SoftTargets | DensePosteriors
    lens: Tensor  # [B]
    argmax: Tensor  # [B, Q] int64: the most probable token of each frame


def teacher_frames(student: StudentOutput, supervision: Supervision, delay_frames: int) -> TeacherFrames:
    """Return the teacher's frames, checked against those of the student.

    Raises:
        ValueError: there are no soft targets.
        TrainingError: as `check_lengths`.
    """
    targets = supervision.targets
    if targets is None or targets.lens is None:
        raise ValueError("the objective needs soft targets")
    lens = targets.lens
    check_lengths(student.lens, lens, student.log_probs.shape[1], delay_frames)
    num_frames = int(lens.max()) if lens.numel() else 0
    if isinstance(targets, DensePosteriors):
        dense = DensePosteriors(targets.log_probs[:, :num_frames], lens)
        return TeacherFrames(dense, lens, dense.log_probs.argmax(-1))
    stored = SoftTargets(targets.tokens[:, :num_frames], targets.probs[:, :num_frames], lens)
    return TeacherFrames(stored, lens, stored.argmax())


def check_lengths(lens: Tensor, target_lens: Tensor, num_frames: int, delay_frames: int) -> None:
    """Refuse a student that is too short for its targets and the delay; nothing is wrapped or cropped.

    Raises:
        TrainingError: another number of utterances, or an utterance with too few frames.
    """
    if lens.shape != target_lens.shape:
        raise TrainingError(
            f"the batch has {lens.numel()} utterances, its soft targets {target_lens.numel()}",
            expected="targets of the same utterances",
        )
    needed = target_lens + delay_frames
    short = (needed > lens) | (needed > num_frames)
    if short.any():
        worst = int(torch.nonzero(short)[0])
        raise TrainingError(
            f"item {worst} of the batch has {int(lens[worst])} student frames, its soft targets "
            f"{int(target_lens[worst])} frames and a delay of {delay_frames}",
            expected=f"at least {int(needed[worst])} student frames",
            remedy="Append that much silence to the student's input (delay), or extract targets of the same audio "
            "at the student's frame shift",
        )


def check_vocabulary(teacher: Tensor, student: Tensor) -> None:
    """Refuse posteriors [..., V] of other symbols.

    Raises:
        TrainingError: the vocabularies differ in size.
    """
    if teacher.shape[-1] != student.shape[-1]:
        raise TrainingError(
            f"the teacher has {teacher.shape[-1]} symbols, the student {student.shape[-1]}", expected="one vocabulary"
        )


def delayed_divergences(
    targets: SoftTargets | DensePosteriors, log_probs: Tensor, delays: range, temperature: float = 1.0
) -> Tensor:
    """KL(teacher's frame t ‖ student's frame t + d), in nats; a stored teacher's over its kept entries and the tail.

    Args:
        targets: the teacher's.
        log_probs: the student's, [B, T, V], any float type; T at least Q and the largest delay.
        delays: d, at least 0.
        temperature: softens both sides; dense targets only.

    Returns:
        [D, B, Q] float32; meaningless at padding.

    Raises:
        TrainingError: the vocabularies differ in size, or stored targets meet a temperature other than 1.
    """
    if isinstance(targets, DensePosteriors):
        check_vocabulary(targets.log_probs, log_probs)
        return delayed_dense_kl(targets.log_probs.float() / temperature, log_probs.float() / temperature, delays)
    if temperature != 1.0:
        raise TrainingError(
            f"temperature {temperature:g} with stored soft targets",
            expected="temperature 1: the stored tail's total does not determine its softened weight",
            remedy="Set temperature: 1, or distil from a teacher's dense posteriors",
        )
    return delayed_sparse_kl(targets, log_probs, delays)


class FrameKl(Term):
    """Σ_t m_t · KL(q_t ‖ p_{t+delay}) · temperature², summed over the batch.

    Args:
        selection: which of the teacher's frames count (m).
        dilation: frames added on either side of each selected frame.
        delay_frames: the teacher's frame t is compared with the student's frame t + delay.
        temperature: softens both sides; other than 1 needs dense targets, because a stored tail's total does not
            determine its weight once softened.
    """

    needs_targets = True

    def __init__(
        self, blank_id: int, selection: Selection, dilation: int = 0, delay_frames: int = 0, temperature: float = 1.0
    ) -> None:
        super().__init__(blank_id)
        self.selection: Selection = selection
        self.dilation, self.delay_frames, self.temperature = dilation, delay_frames, temperature

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """KL summed over the selected frames of the batch, a float32 scalar.

        Raises:
            TrainingError: the student is too short, the vocabularies differ in size, or stored targets meet a
                temperature other than 1.
        """
        frames = teacher_frames(student, supervision, self.delay_frames)
        delays = range(self.delay_frames, self.delay_frames + 1)
        [divergence] = delayed_divergences(frames.targets, student.log_probs, delays, self.temperature)
        mask = select_frames(frames.argmax, frames.lens, self.blank_id, self.selection, self.dilation)
        return divergence.masked_fill(~mask, 0.0).sum() * self.temperature**2


class FrameKlSettings(TermSettings):
    """KL to the teacher's posteriors, frame by frame.

    Attributes:
        selection: all frames, or those where the teacher's best token is not blank.
        dilation: frames added on either side of each selected frame (`selection: nonblank` only).
        delay_frames: the student is that many output frames later than its teacher.
        temperature: softens both sides; other than 1 needs `targets: dense`.
    """

    term: ClassVar[type[Term]] = FrameKl

    selection: Selection = "nonblank"
    dilation: int = Field(default=1, ge=0, le=20)
    delay_frames: int = Field(default=0, ge=0, le=50)
    temperature: float = Field(default=1.0, ge=1.0, le=20.0)

    @property
    def trains_blanks(self) -> bool:
        """Not with pure blank elimination."""
        return self.selection == "all" or self.dilation > 0

    def build(self, shape: Shape) -> Term:
        return FrameKl(shape.blank_id, self.selection, self.dilation, self.delay_frames, self.temperature)
