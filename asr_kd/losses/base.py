"""What an objective is, what it may need, and what it is given. Knows no objective.

Shapes: B utterances, T frames, V vocabulary, U tokens, N hypotheses of a batch.
"""

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from asr_kd.posteriors.types import DensePosteriors, SoftTargets


class References(NamedTuple):
    """Transcripts of a batch as tokens."""

    tokens: Tensor  # [B, U] int64, padded with anything
    lens: Tensor  # [B] int64


class Hypotheses(NamedTuple):
    """What a teacher understood of a batch: any number of hypotheses for each utterance, one after another."""

    tokens: Tensor  # [N, U] int64, padded with anything
    lens: Tensor  # [N] int64
    rows: Tensor  # [N] int64: which utterance of the batch each belongs to
    weights: Tensor  # [N] float32, at least 0; need not sum to 1


class Supervision(NamedTuple):
    """All that a batch can teach; an objective says which parts it needs."""

    references: References | None = None
    targets: SoftTargets | DensePosteriors | None = None
    hypotheses: Hypotheses | None = None


class Term(nn.Module):
    """One objective: a sum over the batch, and a statement of what it needs.

    A later objective is a subclass in its own file; it may own parameters, which are dropped at export.
    """

    needs_references: ClassVar[bool] = False
    needs_targets: ClassVar[bool] = False
    needs_hypotheses: ClassVar[bool] = False

    def forward(self, log_probs: Tensor, lens: Tensor, supervision: Supervision) -> Tensor:
        """Loss summed over the batch, a float32 scalar, of log-probabilities [B, T, V] with lengths [B]."""
        raise NotImplementedError
