"""Best-path CTC decoding: the likeliest token of each frame, repeats collapsed, blanks dropped.

Source: Graves et al. 2006, "Connectionist Temporal Classification", section 3.2. For every way to cut an utterance into
chunks, `StreamingGreedy` gives the result of `greedy` over the whole utterance.

Shapes: B utterances, T frames, V vocabulary, U tokens.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr_kd.decoding.base import Collapsed, Hypothesis, collapse_path


class EmittedTokens(NamedTuple):
    """Decoded tokens of one utterance and the frame in which each was first emitted."""

    tokens: list[int]  # [U]
    frames: list[int]  # [U], strictly rising


class GreedyDecoder:
    """Best path as a `base.Decoder`.

    Args:
        blank_id: the CTC blank.
    """

    def __init__(self, blank_id: int) -> None:
        self.blank_id = blank_id

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[Hypothesis]]:
        """One hypothesis per utterance; its score is the log-probability of the best path. [B, T, V], [B]."""
        values, paths = log_probs.max(dim=-1) if log_probs.shape[1] else (log_probs[..., 0], log_probs[..., 0])
        found = []
        for row, length in enumerate(lens.tolist()):
            path, best = paths[row, :length].tolist(), values[row, :length].tolist()
            found.append([Hypothesis(*collapse_path(path, best, range(length), self.blank_id), sum(best))])
        return found

    def stream(self) -> "StreamingGreedy":
        """Return a decoder of one stream."""
        return StreamingGreedy(self.blank_id)


class StreamingGreedy:
    """Best path of one stream, chunk by chunk; a token that continues across a border counts once.

    Args:
        blank_id: the CTC blank.

    Attributes:
        num_frames: frames decoded so far.
        trailing_blanks: blank frames since the last frame that was not blank, as endpoint rules need it.
    """

    def __init__(self, blank_id: int) -> None:
        self.blank_id = blank_id
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        self._collapsed = Collapsed([], [], [], [])
        self._score = 0.0
        self.num_frames = 0
        self.trailing_blanks = 0
        self._previous = self.blank_id

    @property
    def tokens(self) -> list[int]:
        """Tokens emitted so far."""
        return self._collapsed.tokens

    @property
    def frames(self) -> list[int]:
        """Frame of each token, counted from the start of the stream."""
        return self._collapsed.frames

    def accept(self, log_probs: Tensor) -> list[int]:
        """Decode the next chunk.

        Args:
            log_probs: log-probabilities or logits of the following frames, [T, V]; T may be 0.

        Returns:
            The tokens that this chunk added.

        Raises:
            ValueError: not of that shape, or the blank lies outside the vocabulary.
        """
        if log_probs.ndim != 2 or not 0 <= self.blank_id < log_probs.shape[1]:
            raise ValueError(f"log_probs {tuple(log_probs.shape)}; expected [T, V] with V above blank {self.blank_id}")
        if len(log_probs) == 0:
            return []
        values = log_probs.detach().float().cpu().numpy()  # for so few numbers, numpy takes a tenth of torch's time
        best = values.argmax(axis=-1)  # [T]
        path, path_values = best.tolist(), values[np.arange(len(best)), best].tolist()
        num_before = len(self.tokens)
        numbers = range(self.num_frames, self.num_frames + len(path))
        self._collapsed.append(path, path_values, numbers, self._previous, self.blank_id)
        self._score += sum(path_values)
        self.num_frames += len(path)
        self._previous = path[-1]
        blanks = next((i for i, token in enumerate(reversed(path)) if token != self.blank_id), None)
        self.trailing_blanks = self.trailing_blanks + len(path) if blanks is None else blanks
        return self.tokens[num_before:]

    def finish(self) -> None:
        """End the stream; nothing is left to decide."""

    def nbest(self) -> list[Hypothesis]:
        """Return the best path so far."""
        return [Hypothesis(*self._collapsed, self._score)]


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
    """
    return [alignment.tokens for alignment in greedy_alignments(log_probs, lens, blank_id)]


def greedy_alignments(log_probs: Tensor, lens: Tensor, blank_id: int) -> list[EmittedTokens]:
    """As `greedy`, with the frame of each token."""
    if log_probs.ndim != 3 or lens.shape != log_probs.shape[:1]:
        raise ValueError(f"log_probs {tuple(log_probs.shape)} and lens {tuple(lens.shape)}; expected [B, T, V] and [B]")
    num_frames, vocab_size = log_probs.shape[1:]
    if lens.numel() and not 0 <= int(lens.min()) <= int(lens.max()) <= num_frames:
        raise ValueError(f"lens reach from {int(lens.min())} to {int(lens.max())}; expected 0 to {num_frames}")
    if num_frames == 0:
        return [EmittedTokens([], []) for _ in range(len(lens))]
    if not 0 <= blank_id < vocab_size:
        raise ValueError(f"blank_id {blank_id} is outside the vocabulary of {vocab_size}")
    path = log_probs.argmax(dim=-1)  # [B, T]
    emitted = first_emissions(path, torch.full_like(path[:, :1], blank_id), blank_id)
    emitted &= torch.arange(num_frames, device=path.device) < lens.to(path.device).unsqueeze(1)
    counts = emitted.sum(dim=1).tolist()
    frames = emitted.nonzero()[:, 1].cpu()  # row by row: the utterances follow one another
    tokens = path[emitted].cpu()
    return [
        EmittedTokens(utterance_tokens.tolist(), utterance_frames.tolist())
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
