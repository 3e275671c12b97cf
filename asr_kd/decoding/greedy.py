"""Best-path CTC decoding of whole utterances: the likeliest token a frame, repeats collapsed, blanks dropped.

Knows tensors only: nothing of models or vocabularies; streams are in ``streaming``.

Shapes: B utterances, T frames, V vocabulary, U tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from asr_kd.decoding.hypothesis import Hypothesis, collapse_path
from asr_kd.decoding.streaming import StreamingGreedy


class Alignment(NamedTuple):
    """Decoded tokens of one utterance and the frame in which each was first emitted."""

    tokens: list[int]  # [U]
    frames: list[int]  # [U], strictly rising


class GreedyDecoder:
    """Best path as a `hypothesis.Decoder`.

    Args:
        blank_id: the CTC blank.
    """

    def __init__(self, blank_id: int) -> None:
        self.blank_id = blank_id

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[Hypothesis]]:
        """One hypothesis an utterance; its score is the log-probability of the best path. [B, T, V], [B]."""
        values, paths = log_probs.max(dim=-1) if log_probs.shape[1] else (log_probs[..., 0], log_probs[..., 0])
        found = []
        for row, length in enumerate(lens.tolist()):
            path, sure = paths[row, :length].tolist(), values[row, :length].tolist()
            found.append([Hypothesis(*collapse_path(path, sure, range(length), self.blank_id), sum(sure))])
        return found

    def stream(self) -> StreamingGreedy:
        """A stream of its own."""
        return StreamingGreedy(self.blank_id)


def greedy(log_probs: Tensor, lens: Tensor, blank_id: int) -> list[list[int]]:
    """Decode a batch.

    Args:
        log_probs: log-probabilities or logits, [B, T, V].
        lens: valid frames of each utterance, [B] integers from 0 to T; frames beyond are never read.
        blank_id: the CTC blank.

    Returns:
        The tokens of each utterance, [B] lists of length U, without blanks.

    Raises:
        ValueError: a shape, a length or the blank does not fit.

    Source: Graves et al. 2006, "Connectionist Temporal Classification", section 3.2 (best path decoding).
    """
    return [alignment.tokens for alignment in greedy_alignments(log_probs, lens, blank_id)]


def greedy_alignments(log_probs: Tensor, lens: Tensor, blank_id: int) -> list[Alignment]:
    """As `greedy`, with the frame of each token, for timestamps."""
    if log_probs.ndim != 3 or lens.shape != log_probs.shape[:1]:
        raise ValueError(f"log_probs {tuple(log_probs.shape)} and lens {tuple(lens.shape)}; expected [B, T, V] and [B]")
    num_frames, vocab_size = log_probs.shape[1:]
    if lens.numel() and not 0 <= int(lens.min()) <= int(lens.max()) <= num_frames:
        raise ValueError(f"lens reach from {int(lens.min())} to {int(lens.max())}; expected 0 to {num_frames}")
    if num_frames == 0:
        return [Alignment([], []) for _ in range(len(lens))]
    if not 0 <= blank_id < vocab_size:
        raise ValueError(f"blank_id {blank_id} is outside the vocabulary of {vocab_size}")
    path = log_probs.argmax(dim=-1)  # [B, T]
    emitted = first_emissions(path, torch.full_like(path[:, :1], blank_id), blank_id)
    emitted &= torch.arange(num_frames, device=path.device) < lens.to(path.device).unsqueeze(1)
    counts = emitted.sum(dim=1).tolist()
    frames = emitted.nonzero()[:, 1].cpu()  # row by row, so the utterances lie one after another
    tokens = path[emitted].cpu()
    return [
        Alignment(utterance_tokens.tolist(), utterance_frames.tolist())
        for utterance_tokens, utterance_frames in zip(tokens.split(counts), frames.split(counts), strict=True)
    ]


def first_emissions(path: Tensor, previous: Tensor, blank_id: int) -> Tensor:
    """Mark the frames of a best path that add a token: not blank, and not a repeat of the frame before.

    Args:
        path: likeliest token a frame, [B, T].
        previous: token of the frame before the first one, [B, 1]; the blank at the start of an utterance.
        blank_id: the CTC blank.

    Returns:
        Boolean mask, [B, T].
    """
    before = torch.cat([previous, path[:, :-1]], dim=1)
    return (path != blank_id) & (path != before)
