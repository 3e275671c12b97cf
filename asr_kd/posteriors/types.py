"""Types of frame posteriors, and their padding into a batch.

Shapes: B utterances, T frames, V vocabulary, K kept entries a frame.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class DensePosteriors(NamedTuple):
    """Log-probabilities over the whole vocabulary."""

    log_probs: Tensor  # [B, T, V] float
    lens: Tensor  # [B] int64, frames that are not padding


class SparsePosteriors(NamedTuple):
    """The largest probabilities of a frame; what is missing to 1 is the tail. Of one utterance without B.

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


def collate(items: Sequence[SparsePosteriors], num_frames: int | None = None) -> SoftTargets:
    """Pad utterances to one length and one number of entries.

    Args:
        items: one an utterance, at least one; tokens and probabilities [T, K].
        num_frames: T of the batch; without it that of the longest utterance.

    Returns:
        Posteriors [B, T, K] (tokens int32, probabilities float32; padding is filler) and lengths [B] int64.

    Raises:
        ValueError: an utterance is longer than `num_frames`: nothing is cropped.
    """
    lens = torch.tensor([item.tokens.shape[0] for item in items])
    frames = int(lens.max()) if num_frames is None else num_frames
    if int(lens.max()) > frames:
        raise ValueError(f"targets of {int(lens.max())} frames do not fit into a batch of {frames}")
    shape = len(items), frames, max(item.tokens.shape[1] for item in items)
    tokens, probs = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape)
    for row, item in enumerate(items):
        num_frames, width = item.tokens.shape
        tokens[row, :num_frames, :width] = item.tokens
        probs[row, :num_frames, :width] = item.probs
    return SoftTargets(SparsePosteriors(tokens, probs), lens)
