"""The types of frame posteriors. They carry tensors and know nothing else.

Shapes: B utterances, T frames, V vocabulary, K kept entries a frame.
"""

from typing import NamedTuple

from torch import Tensor


class DensePosteriors(NamedTuple):
    """Log-probabilities over the whole vocabulary."""

    log_probs: Tensor  # [B, T, V] float
    lens: Tensor  # [B] int64, frames that are not padding


class SparsePosteriors(NamedTuple):
    """The largest probabilities of a frame; what is missing to 1 is the tail.

    An entry of probability 0 is filler and means nothing, whatever its token.
    """

    tokens: Tensor  # [B, T, K] integer; distinct within a frame where the probability is not 0
    probs: Tensor  # [B, T, K] float32; 0 where fewer than K entries were kept

    @property
    def tail(self) -> Tensor:
        """Mass outside the kept entries, [B, T]."""
        return (1.0 - self.probs.sum(-1)).clamp_min(0.0)

    def argmax(self) -> Tensor:
        """The most probable token of each frame, [B, T] int64; at least one entry is kept in a frame."""
        return self.tokens.long().gather(-1, self.probs.argmax(-1, keepdim=True)).squeeze(-1)


class SoftTargets(NamedTuple):
    """Stored posteriors of a padded batch, with their lengths."""

    posteriors: SparsePosteriors
    lens: Tensor  # [B] int64, frames that are not padding
