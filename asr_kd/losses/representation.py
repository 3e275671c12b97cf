"""Representation: the student's hidden layers are trained to match layers of its teacher, through a projection.

Sources: Romero et al. 2015 (FitNets: regression to a hidden layer through a learned map); Shim et al. 2023 and
icefall's MVQ-KD (the same for streaming speech recognition, where hidden layers gave the largest gains). The
projections belong to the objective and are dropped after training.

Shapes: B utterances, T frames of the student, Q frames of the teacher, D width of the student, D' of the teacher.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from asr_kd.errors import TrainingError
from asr_kd.losses.base import Shape, StudentOutput, Supervision, Term, TermSettings, autocast_like
from asr_kd.losses.frame_kl import check_lengths
from asr_kd.posteriors.measures import frame_mask
from asr_kd.posteriors.types import array_names, dequantise

Distance = Literal["mse", "channels", "cosine"]
Projection = Literal["linear", "none"]
SMALLEST_DEVIATION = 0.05
"""Least standard deviation that a channel's difference is divided by."""
SMALLEST_LENGTH = 1e-4
"""Least norm of a vector in a cosine: with a zero vector the cosine is 0, and its gradient finite."""


class LayerPair(NamedTuple):
    """A layer of the student and the layer of the teacher that it is compared with, counted from 1."""

    student: Annotated[int, Field(ge=1)]
    teacher: Annotated[int, Field(ge=1)]


class Representation(Term):
    """1/P · Σ_pairs Σ_t d(W·h_{t+delay} + b, z_t), summed over the batch.

    h is the student's layer, z the teacher's, P the number of pairs, and d the mean of the squared differences over D'
    (mse), the same with each channel divided by the teacher's standard deviation over its frames of the batch
    (channels), or 1 − cos. Without a projection h is layer-normalised instead, as the layers of public encoders are.
    Every frame of the teacher counts, also blanks, but not the silence added before the speech.

    Args:
        width, teacher_width: D and D'.
        distance: d.
        delay_frames: the teacher's frame t is compared with the student's frame t + delay.
        projection: `none` leaves W and b out; D and D' must be equal.
    """

    needs_targets = True  # their lengths are the teacher's frames
    on_inner_heads = trains_head = trains_blanks = False

    def __init__(
        self,
        pairs: Sequence[LayerPair],
        width: int,
        teacher_width: int,
        distance: Distance,
        delay_frames: int = 0,
        projection: Projection = "linear",
    ) -> None:
        super().__init__()
        self.pairs, self.distance, self.delay_frames = tuple(pairs), distance, delay_frames
        self.projections = nn.ModuleList(
            [
                nn.Linear(width, teacher_width)
                if projection == "linear"
                else nn.LayerNorm(width, elementwise_affine=False)
                for _ in pairs
            ]
        )
        self.needs_layers = tuple(pair.student for pair in pairs)
        self.needs_teacher_layers = tuple(pair.teacher for pair in pairs)
        self.needs_arrays = tuple(name for pair in pairs for name in array_names(pair.teacher))

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """The loss, a float32 scalar.

        Raises:
            TrainingError: the student is too short for the delay.
            ValueError: lengths, or a layer of student or teacher, are missing.
        """
        missing = set(self.needs_layers) - student.layers.keys()
        if missing:
            raise ValueError(f"representation needs the student's layer {min(missing)}")
        targets = supervision.targets
        if targets is None or targets.lens is None:
            raise ValueError("representation needs soft targets: their lengths are the teacher's")
        check_lengths(student.lens, targets.lens, student.log_probs.shape[1], self.delay_frames)
        frames = int(targets.lens.max()) if targets.lens.numel() else 0
        valid = frame_mask(targets.lens, frames, student.log_probs.device)
        if supervision.lead_lens is not None:
            valid = valid & ~frame_mask(supervision.lead_lens, frames, student.log_probs.device)
        apart = [
            self._distance(
                self._projected(projection, student.layers[pair.student], frames),
                _hidden(supervision, pair.teacher)[:, :frames].masked_fill(~valid.unsqueeze(-1), 0.0),
                valid,
            )
            for pair, projection in zip(self.pairs, self.projections, strict=True)
        ]
        return torch.stack(apart).masked_fill(~valid, 0.0).sum() / len(self.pairs)

    def _projected(self, projection: nn.Module, hidden: Tensor, frames: int) -> Tensor:
        """The student's layer in the teacher's space, [B, Q, D'] float32."""
        shifted = hidden[:, self.delay_frames : self.delay_frames + frames]
        with autocast_like(hidden):
            projected: Tensor = projection(shifted)
        return projected.float()

    def _distance(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        """Distance [B, Q] of two [B, Q, D']; `valid` [B, Q] marks the frames that count; `teacher` is 0 elsewhere."""
        if self.distance == "mse":
            return (student - teacher).square().mean(-1)
        if self.distance == "channels":
            return ((student - teacher) / _deviation(teacher, valid)).square().mean(-1)
        return 1.0 - torch.cosine_similarity(student, teacher, dim=-1, eps=SMALLEST_LENGTH)


def _deviation(hidden: Tensor, valid: Tensor) -> Tensor:
    """Standard deviation of each channel of [B, Q, D'] over the valid frames, [D']."""
    counted = valid.unsqueeze(-1).to(hidden.dtype)
    frames = counted.sum().clamp_min(1)
    centred = (hidden - (hidden * counted).sum((0, 1)) / frames) * counted
    return (centred.square().sum((0, 1)) / frames).sqrt().clamp_min(SMALLEST_DEVIATION)


def _hidden(supervision: Supervision, layer: int) -> Tensor:
    """A teacher's layer [B, Q', D'] float32, from one that is run in training or from the store; no gradient."""
    if layer in supervision.teacher_layers:
        return supervision.teacher_layers[layer].detach().float()
    codes, scale = (supervision.arrays.get(name) for name in array_names(layer))
    if codes is None or scale is None:
        raise ValueError(f"representation needs the teacher's layer {layer}")
    return dequantise(codes, scale)


class RepresentationSettings(TermSettings):
    """Distance between hidden layers of the student and of a teacher that is trained here, `local:` or `encoder:`.

    Attributes:
        pairs: layers, [student's, teacher's], each counted from 1.
        distance: `mse`: the mean squared difference; `channels`: the same with each channel divided by the teacher's
            standard deviation over the process's part of the batch; `cosine`: 1 − cosine.
        projection: `linear`: a learned map from the student's layer to the teacher's, dropped after training; `none`:
            the student's layer itself, layer-normalised, for a student of the teacher's width, such as one that is
            initialised from it.
        delay_frames: the student is that many output frames later than its teacher.
    """

    term: ClassVar[type[Term]] = Representation

    pairs: tuple[LayerPair, ...] = Field(min_length=1)
    distance: Distance = "mse"
    projection: Projection = "linear"
    delay_frames: int = Field(default=0, ge=0, le=50)

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """Layers of the teacher that must be stored or computed in training."""
        return tuple(sorted({pair.teacher for pair in self.pairs}))

    def incompatibility(self, shape: Shape) -> str | None:
        """A layer that one of the two does not have, or a teacher without accessible layers."""
        if shape.teacher_layers is None or shape.teacher_width is None:
            return "needs a teacher that is one model of this project's own, trained here or `local:`, or an `encoder:`"
        for pair in self.pairs:
            if pair.student > shape.layers:
                return f"pairs {list(pair)}: the student's layer must lie from 1 to {shape.layers}"
            if pair.teacher > shape.teacher_layers:
                return f"pairs {list(pair)}: the teacher's layer must lie from 1 to {shape.teacher_layers}"
        return None

    def build(self, shape: Shape) -> Term:
        if shape.teacher_width is None:
            raise ValueError("representation needs the teacher's width")
        if self.projection == "none" and shape.width != shape.teacher_width:
            raise TrainingError(
                f"representation without a projection: the student is {shape.width} channels wide",
                expected=f"{shape.teacher_width}, as the teacher",
                remedy="Set projection: linear",
            )
        return Representation(
            self.pairs, shape.width, shape.teacher_width, self.distance, self.delay_frames, self.projection
        )
