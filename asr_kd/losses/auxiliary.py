"""An auxiliary full-context layer on the student: the KL is computed on its output; it is dropped after training.

A streaming layer has no access to the frames after its chunk, on which the teacher's posteriors depend. A full-context
layer above it has. Through it the student's layers are trained to hold the features that the KL needs. Source: Shim et
al. 2023 ("Knowledge distillation from non-streaming to streaming ASR encoder using auxiliary non-streaming layer");
here the branch ends in a CTC head of its own. The layer is a pre-norm Transformer's (Xiong et al. 2020) with a learned
bias for each distance (Raffel et al. 2020).

Shapes: B utterances, T frames, D width of the student, H heads, V vocabulary.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from asr_kd.losses.base import Shape, StudentOutput, Supervision, Term, autocast_like
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.frame_kl import FrameKl, SelectionSettings
from asr_kd.posteriors.measures import frame_mask

NEAR_FRAMES = 32
"""Distances beyond this share a bias."""


class FullContextLayer(nn.Module):
    """Self-attention over the whole utterance and feed-forward, residual, then a CTC head.

    Args:
        width: D.
        heads: H, a divisor of D.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, vocab_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.distances = nn.Parameter(torch.zeros(heads, 2 * NEAR_FRAMES + 1))
        inner = [nn.Linear(width, feed_forward), nn.SiLU(), nn.Dropout(dropout), nn.Linear(feed_forward, width)]
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), *inner)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocab_size))

    def forward(self, hidden: Tensor, lens: Tensor) -> Tensor:
        """Log-probabilities [B, T, V] float32 of hidden states [B, T, D] and lengths [B]."""
        hidden = hidden + self.dropout(self._attend(self.attention_norm(hidden), lens))
        hidden = hidden + self.dropout(self.feed_forward(hidden))
        log_probs: Tensor = self.head(hidden).float().log_softmax(-1)
        return log_probs

    def _attend(self, hidden: Tensor, lens: Tensor) -> Tensor:
        frames = hidden.shape[1]
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.projections(hidden).chunk(3, -1)
        )  # [B, H, T, D / H]
        index = torch.arange(frames, device=hidden.device)
        distance = (index - index[:, None]).clamp(-NEAR_FRAMES, NEAR_FRAMES) + NEAR_FRAMES
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + self.distances[:, distance]
        # An utterance without a frame attends to its padding: a softmax over no key would be NaN.
        valid = frame_mask(lens.clamp_min(1), frames, hidden.device)[:, None, None]
        weights = scores.masked_fill(~valid, float("-inf")).softmax(-1).to(value.dtype)
        mixed: Tensor = self.mixed((weights @ value).transpose(1, 2).flatten(2))
        return mixed


class Auxiliary(Term):
    """KL(q ‖ r) on selected frames + c · CTC(r), summed over the batch.

    q are the teacher's posteriors, r those of the branch above the student's layer. It trains the student's layers up
    to that one, not its output layer.

    Args:
        branch: a full-context layer with a head; hidden states and lengths to log-probabilities.
        layer: of the student, counted from 1.
        kl: the frame KL.
        ctc_weight: c.
    """

    needs_targets = True
    on_inner_heads = False
    trains_blanks = False  # of the student's own head

    def __init__(self, branch: FullContextLayer, layer: int, kl: FrameKl, ctc_weight: float) -> None:
        super().__init__()
        self.branch, self.kl, self.ctc_weight = branch, kl, ctc_weight
        self.needs_layers = (layer,)
        self.needs_references = ctc_weight > 0
        self.delay_frames = kl.delay_frames

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """The loss, a float32 scalar.

        Raises:
            TrainingError: see `FrameKl.forward`.
        """
        hidden, references = student.layers.get(self.needs_layers[0]), supervision.references
        if hidden is None or (references is None and self.needs_references):
            raise ValueError(f"auxiliary needs the student's layer {self.needs_layers[0]}, and references for its CTC")
        with autocast_like(hidden):
            log_probs = self.branch(hidden, student.lens)
        loss: Tensor = self.kl(StudentOutput(log_probs, student.lens), supervision)
        if references is None or not self.needs_references:
            return loss
        return loss + self.ctc_weight * ctc_loss(log_probs, student.lens, references, self.kl.blank_id)


class AuxiliarySettings(SelectionSettings):
    """Frame KL on an additional full-context layer above the student, with a head of its own; dropped after training.

    Attributes:
        layer: the student's layer that it is on, counted from 1; None: the last.
        heads: attention heads, a divisor of the student's width.
        feed_forward: inner width of its feed-forward part; None: twice the student's width.
        dropout: its dropout.
        ctc_weight: weight of CTC on its head, relative to the KL.
        delay_frames: its delay behind the teacher, in output frames; with full context it needs none.
    """

    term: ClassVar[type[Term]] = Auxiliary

    layer: int | None = Field(default=None, ge=1)
    heads: int = Field(default=4, ge=1, le=64)
    feed_forward: int | None = Field(default=None, ge=8)
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    ctc_weight: float = Field(default=0.0, ge=0.0, le=1000.0)
    delay_frames: int = Field(default=0, ge=0, le=50)

    @property
    def needs_references(self) -> bool:
        return self.ctc_weight > 0.0

    def incompatibility(self, shape: Shape) -> str | None:
        """A layer that the student does not have, or a width that the heads do not divide."""
        if self.layer is not None and self.layer > shape.layers:
            return f"layer {self.layer} must lie from 1 to {shape.layers}, the student's layers"
        if shape.width % self.heads:
            return f"heads {self.heads} must divide the student's width {shape.width}"
        return None

    def build(self, shape: Shape) -> Term:
        feed_forward = self.feed_forward or 2 * shape.width
        branch = FullContextLayer(shape.width, self.heads, feed_forward, self.dropout, shape.vocab_size)
        kl = FrameKl(shape.blank_id, self.selection, self.dilation, self.delay_frames)
        return Auxiliary(branch, self.layer or shape.layers, kl, self.ctc_weight)
