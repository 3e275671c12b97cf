"""Base classes of objectives and their settings, their inputs, and selection of a batch's rows.

Lengths, and the rows of hypotheses, may stay on the host: then no objective synchronises with a GPU.

Shapes: B utterances, T frames, V vocabulary, U tokens, N hypotheses of a batch, D width of a layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from asr_kd.config import Settings
from asr_kd.posteriors.types import DensePosteriors, SoftTargets, map_tensors

Pass = Literal["full_context", "second_view"]
"""Further passes of the student over a batch: without chunks, or with other masks and dropout."""


class References(NamedTuple):
    """Transcripts of a batch as tokens."""

    tokens: Tensor  # [B, U] int64, padded with anything
    lens: Tensor  # [B] int64


class Untranscribed(References):
    """Placeholder for utterances without a transcript: terms that need one are 0 there."""

    __slots__ = ()


class Hypotheses(NamedTuple):
    """Hypotheses of a teacher: any number of hypotheses for each utterance, one after another."""

    tokens: Tensor  # [N, U] int64, padded with anything
    lens: Tensor  # [N] int64
    rows: Tensor  # [N] int64: which utterance of the batch each belongs to
    weights: Tensor  # [N] float32, at least 0; need not sum to 1


class Supervision(NamedTuple):
    """Targets of a batch; an objective declares which parts it needs."""

    references: References | None = None
    targets: SoftTargets | DensePosteriors | None = None
    hypotheses: Hypotheses | None = None
    teacher_layers: Mapping[int, Tensor] = {}  # teacher's layer → [B, Q, D'], at most as many frames as `targets`
    arrays: Mapping[str, Tensor] = {}  # named arrays of the store, [B, n, …], padded with zeros
    untranscribed: tuple[int, ...] = ()  # rows that have no transcript
    lead_lens: Tensor | None = None  # [B] int64: leading frames of `targets` that are added silence; None: none are


class StudentOutput(NamedTuple):
    """Output of a student for a batch, in one pass."""

    log_probs: Tensor  # [B, T, V], any float type
    lens: Tensor  # [B] int64
    layers: Mapping[int, Tensor] = {}  # layer, counted from 1 → [B, T, D]; those that a term needs
    passes: Mapping[Pass, "StudentOutput"] = {}  # those that a term needs


@dataclass(frozen=True)
class Shape:
    """Properties of the models that an objective is built for.

    Attributes:
        blank_id: the blank's index in the vocabulary.
        vocab_size: V.
        width, layers: width (D) and number of layers of the student.
        teacher_width, teacher_layers: the same of the teacher whose layers are matched; None where there is none.
        streaming: whether the student processes chunks, so that its full-context pass differs.
    """

    blank_id: int
    vocab_size: int = 0
    width: int = 0
    layers: int = 0
    teacher_width: int | None = None
    teacher_layers: int | None = None
    streaming: bool = False


class Term(nn.Module):
    """Base class of objectives: a sum over the batch, with a declaration of what it needs.

    It may own parameters, which are dropped at export.
    """

    needs_targets: ClassVar[bool] = False
    needs_hypotheses: ClassVar[bool] = False
    on_inner_heads: ClassVar[bool] = True
    """Whether it also applies to the head on an inner layer."""
    trains_head: ClassVar[bool] = True
    """Whether it trains the student's output layer."""
    trains_blanks: ClassVar[bool] = True
    """Whether it trains the student's output layer to emit blanks, without CTC."""

    needs_references: bool = False
    needs_layers: tuple[int, ...] = ()
    """Layers of the student, counted from 1, whose outputs it reads."""
    needs_passes: tuple[Pass, ...] = ()
    needs_teacher_layers: tuple[int, ...] = ()
    needs_arrays: tuple[str, ...] = ()
    """Named arrays of the store."""
    delay_frames: int = 0
    """The largest delay of the student, in its frames; training appends that much silence to the audio."""

    def __init__(self, blank_id: int = 0) -> None:
        super().__init__()
        self.blank_id = blank_id

    def forward(self, student: StudentOutput, supervision: Supervision) -> Tensor:
        """Loss summed over the batch, in nats (layers: squared differences), a float32 scalar.

        Raises:
            ValueError: what the term declares that it needs is missing.
            TrainingError: lengths or vocabularies that do not fit.
        """
        raise NotImplementedError


def autocast_like(hidden: Tensor) -> torch.autocast:
    """Return an autocast context in the precision of `hidden`, for a term's own layers.

    Losses are computed outside the trainer's autocast.
    """
    return torch.autocast(hidden.device.type, torch.bfloat16, enabled=hidden.dtype == torch.bfloat16)


class TermSettings(Settings):
    """Base of an objective's settings, which stand beside it.

    Attributes:
        weight: its weight relative to the other objectives; all are multiplied by λ.
    """

    term: ClassVar[type[Term]]
    """The objective."""

    weight: float = Field(default=1.0, gt=0.0, le=1000.0)

    @property
    def trains_blanks(self) -> bool:
        """Whether it trains blanks with these settings, without CTC."""
        return self.term.trains_blanks

    @property
    def needs_references(self) -> bool:
        """Whether it needs transcripts."""
        return self.term.needs_references

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """Layers of the teacher, counted from 1, that it needs beside posteriors."""
        return ()

    def incompatibility(self, shape: Shape) -> str | None:
        """Return why the objective cannot be used with these models, as a message; None when it can."""
        return None

    def build(self, shape: Shape) -> Term:
        raise NotImplementedError


def student_of(student: StudentOutput, rows: Sequence[int]) -> StudentOutput:
    """Select rows of a student's output, further passes included."""
    return map_tensors(student, lambda part: part[_index(rows, part)])


def supervision_of(supervision: Supervision, rows: Sequence[int], *, transcribed: bool) -> Supervision:
    """Select rows of a batch's targets: rows that all have a transcript (`transcribed`), or none of which has one."""
    hypotheses = supervision.hypotheses
    if hypotheses is not None:
        hypotheses = hypotheses_of(hypotheses, rows, _count(supervision))
    parts = supervision._replace(hypotheses=None, untranscribed=())
    taken = map_tensors(parts, lambda part: part[_index(rows, part)])._replace(hypotheses=hypotheses)
    if transcribed or taken.references is None:
        return taken
    return taken._replace(references=Untranscribed(*taken.references))


def hypotheses_of(hypotheses: Hypotheses, rows: Sequence[int], num_utterances: int) -> Hypotheses:
    """Select the hypotheses of some rows of a batch; rows are renumbered."""
    number = torch.full((num_utterances,), -1, dtype=torch.int64, device=hypotheses.rows.device)
    number[_index(rows, number)] = torch.arange(len(rows), device=number.device)
    renumbered = number[hypotheses.rows]
    kept = (renumbered >= 0).nonzero()[:, 0]
    tokens = hypotheses.tokens[kept.to(hypotheses.tokens.device, non_blocking=True)]
    return Hypotheses(tokens, hypotheses.lens[kept], renumbered[kept], hypotheses.weights[kept])


def _count(supervision: Supervision) -> int:
    """B, which hypotheses do not hold."""
    if supervision.references is None:
        raise ValueError("rows are taken of batches with references")
    return len(supervision.references.lens)


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    """Rows as an index on the device of a tensor, without waiting for it."""
    return torch.tensor(rows, dtype=torch.int64).to(like.device, non_blocking=True)
