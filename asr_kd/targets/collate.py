"""Targets of single utterances into a padded batch. Knows tensors, not stores."""

from collections.abc import Sequence

import torch

from asr_kd.posteriors.types import SoftTargets, SparsePosteriors
from asr_kd.targets.packing import StoredTargets


def collate(items: Sequence[StoredTargets], num_frames: int | None = None) -> SoftTargets:
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
