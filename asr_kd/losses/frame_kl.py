"""Frame-level KL divergence to a teacher's posteriors, on selected frames, with a fixed delay or one of several.

A streaming student has fewer frames ahead than its teacher, so it may emit later: by a fixed number of frames
(`FrameKl`), or by a delay that is chosen from a range (`DelayedKl`).

Sources: Hinton 2015 (KL, temperature); Tian 2022 and Hilmes 2025 (blank elimination and its symmetric widening);
Kurata & Saon 2020 (the minimum over alignments); Delayed-KD 2025 (a limited delay for streaming CTC).

Shapes: B utterances, T frames of the student, Q frames of the teacher, V vocabulary, K kept entries a frame, D delays.
"""

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from asr_kd.errors import TrainingError
from asr_kd.losses.base import Shape, StudentOutput, Supervision, Term, TermSettings
from asr_kd.posteriors.measures import delayed_dense_kl, delayed_sparse_kl, frame_mask
from asr_kd.posteriors.types import DensePosteriors, SoftTargets

Selection = Literal["all", "nonblank"]
Mode = Literal["minimum", "soft_minimum", "utterance", "learned"]


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
        dense = without_padding(DensePosteriors(targets.log_probs[:, :num_frames], lens))
        return TeacherFrames(dense, lens, dense.log_probs.argmax(-1))
    stored = SoftTargets(targets.tokens[:, :num_frames], targets.probs[:, :num_frames], lens)
    return TeacherFrames(stored, lens, stored.argmax())


def without_padding(posteriors: DensePosteriors) -> DensePosteriors:
    """Return posteriors [B, Q, V] that are 0 beyond the lengths: NaN there would reach the student's gradient."""
    log_probs, lens = posteriors
    valid = frame_mask(lens, log_probs.shape[1], log_probs.device)
    return DensePosteriors(log_probs.masked_fill(~valid.unsqueeze(-1), 0.0), lens)


def check_lengths(lens: Tensor, target_lens: Tensor, num_frames: int, delay_frames: int) -> None:
    """Refuse a student that is too short for its targets and the delay; nothing is wrapped or cropped.

    An utterance without targets needs no frames.

    Args:
        lens: the student's frames of each utterance, [B].
        target_lens: the teacher's, [B].
        num_frames: T of the student's batch.
        delay_frames: by which the student is later.

    Raises:
        TrainingError: another number of utterances, or an utterance with too few frames.
    """
    if lens.shape != target_lens.shape:
        raise TrainingError(
            f"the batch has {lens.numel()} utterances, its soft targets {target_lens.numel()}",
            expected="targets of the same utterances",
        )
    needed = torch.where(target_lens > 0, target_lens + delay_frames, 0)
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
        self.delays = range(delay_frames, delay_frames + 1)

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """The loss, a float32 scalar.

        Raises:
            TrainingError: the student is too short for the largest delay, the vocabularies differ in size, or stored
                targets meet a temperature other than 1.
        """
        frames = teacher_frames(student, supervision, self.delay_frames)
        divergences = delayed_divergences(frames.targets, student.log_probs, self.delays, self.temperature)
        mask = select_frames(frames.argmax, frames.lens, self.blank_id, self.selection, self.dilation)
        return self._chosen(divergences.masked_fill(~mask, 0.0)).sum() * self.temperature**2

    def _chosen(self, divergences: Tensor) -> Tensor:
        """The divergences that count, [B, Q], or [B] by utterance, of those at all delays, [D, B, Q]."""
        return divergences[0]


class DelayedKl(FrameKl):
    """Σ_t m_t · Σ_d w_td · KL(q_t ‖ p_{t+d}), summed over the batch; w is constant in the gradient.

    With K_td = KL(q_t ‖ p_{t+d}) and m as in `FrameKl`:

    - minimum: w_td = 1 at argmin_d K_td, else 0.
    - soft_minimum: w_td = softmax_d(−β·K_td).
    - utterance: w_td = 1 at argmin_d Σ_t m_t·K_td, else 0.
    - learned: Σ_t m_t · −log Σ_d π_d·exp(−K_td) with π = softmax(θ) learned: the delay of a frame is a latent variable.
      It is at most the KL expected under π, never negative, and 0 when every delay that π allows fits.

    The delays of a frame need not follow each other in order; of two that fit equally well the smaller one is taken.

    Args:
        delays: those to choose from, in frames; consecutive, at least one.
        sharpness: β.
    """

    def __init__(
        self,
        blank_id: int,
        mode: Mode,
        delays: range,
        sharpness: float = 1.0,
        selection: Selection = "nonblank",
        dilation: int = 1,
    ) -> None:
        super().__init__(blank_id, selection, dilation, delays[-1])
        self.mode, self.delays, self.sharpness = mode, delays, sharpness
        if mode == "learned":
            self.logits = nn.Parameter(torch.zeros(len(delays)))

    def _chosen(self, divergences: Tensor) -> Tensor:
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


class SelectionSettings(TermSettings):
    """Base of the settings of objectives over some of the teacher's frames.

    Attributes:
        selection: all frames, or those where the teacher's best token is not blank.
        dilation: frames added on either side of each selected frame (`selection: nonblank` only).
    """

    selection: Selection = "nonblank"
    dilation: int = Field(default=1, ge=0, le=20)

    @property
    def trains_blanks(self) -> bool:
        """Not with pure blank elimination."""
        return self.term.trains_blanks and (self.selection == "all" or self.dilation > 0)


class FrameKlSettings(SelectionSettings):
    """KL to the teacher's posteriors, frame by frame.

    Attributes:
        delay_frames: the student is that many output frames later than its teacher.
        temperature: softens both sides; other than 1 needs `targets: dense`.
    """

    term: ClassVar[type[Term]] = FrameKl

    delay_frames: int = Field(default=0, ge=0, le=50)
    temperature: float = Field(default=1.0, ge=1.0, le=20.0)

    def build(self, shape: Shape) -> Term:
        return FrameKl(shape.blank_id, self.selection, self.dilation, self.delay_frames, self.temperature)


class DelayedKlSettings(SelectionSettings):
    """KL to the teacher's posteriors, each frame at one of several delays.

    Attributes:
        mode: how the delay is chosen. `minimum`: the best one of each frame; `soft_minimum`: all delays of a frame,
            weighted by how well they fit; `utterance`: the one that is best for all selected frames of an utterance
            together; `learned`: the delay is a latent variable whose distribution is learned in training.
        min_delay_frames: the least delay to choose from, in output frames.
        max_delay_frames: the largest delay to choose from; training appends that much silence to the audio.
        sharpness: β of `soft_minimum`: 0 weighs all delays equally, a large β equals `minimum`.
    """

    term: ClassVar[type[Term]] = DelayedKl

    mode: Mode = "minimum"
    min_delay_frames: int = Field(default=0, ge=0, le=50)
    max_delay_frames: int = Field(default=3, ge=0, le=50)
    sharpness: float = Field(default=1.0, ge=0.0, le=1000.0)

    @model_validator(mode="after")
    def _delays_in_order(self) -> "DelayedKlSettings":
        if self.min_delay_frames > self.max_delay_frames:
            raise ValueError(
                f"min_delay_frames {self.min_delay_frames} is above max_delay_frames {self.max_delay_frames}"
            )
        return self

    def build(self, shape: Shape) -> Term:
        delays = range(self.min_delay_frames, self.max_delay_frames + 1)
        return DelayedKl(shape.blank_id, self.mode, delays, self.sharpness, self.selection, self.dilation)
