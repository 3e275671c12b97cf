"""Best-path CTC decoding of one stream, chunk by chunk: a token that goes on across a border counts once.

Knows tensors only. For every way to cut an utterance into chunks the result is that of ``greedy``.
"""

import numpy as np
from torch import Tensor

from asr_kd.decoding.hypothesis import Collapsed, Hypothesis


class StreamingGreedy:
    """Collects the tokens of one stream.

    Args:
        blank_id: the CTC blank.

    Attributes:
        tokens: every token emitted so far.
        frames: the frame of each token, counted from the start of the stream.
        num_frames: frames seen so far.
        trailing_blanks: blank frames since the last frame that was not blank; what endpoint rules read.
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
        """Every token emitted so far."""
        return self._collapsed.tokens

    @property
    def frames(self) -> list[int]:
        """The frame of each token."""
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
        values = log_probs.detach().float().cpu().numpy()  # a tenth of torch's time for so little
        path = values.argmax(axis=-1)  # [T]
        known = len(self.tokens)
        said, sure = path.tolist(), values[np.arange(len(path)), path].tolist()
        numbers = range(self.num_frames, self.num_frames + len(said))
        self._collapsed.append(said, sure, numbers, self._previous, self.blank_id)
        self._score += sum(sure)
        self.num_frames += len(said)
        self._previous = said[-1]
        silent = next((i for i, token in enumerate(reversed(said)) if token != self.blank_id), None)
        self.trailing_blanks = self.trailing_blanks + len(said) if silent is None else silent
        return self.tokens[known:]

    def finish(self) -> None:
        """The stream has ended; nothing is left to decide."""

    def nbest(self) -> list[Hypothesis]:
        """The best path so far."""
        return [Hypothesis(*self._collapsed, self._score)]
