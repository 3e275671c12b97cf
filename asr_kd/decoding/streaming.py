"""Best-path CTC decoding of one stream, chunk by chunk: a token that goes on across a border counts once.

Knows tensors only. For every way to cut an utterance into chunks the result is that of ``greedy``.
"""

import torch
from torch import Tensor

from asr_kd.decoding.greedy import first_emissions


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
        self.tokens: list[int] = []
        self.frames: list[int] = []
        self.num_frames = 0
        self.trailing_blanks = 0
        self._previous = self.blank_id

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
        path = log_probs.argmax(dim=-1).cpu()  # [T]
        emitted = first_emissions(path.unsqueeze(0), torch.tensor([[self._previous]]), self.blank_id)[0]
        added = path[emitted].tolist()
        self.tokens += added
        self.frames += (emitted.nonzero()[:, 0] + self.num_frames).tolist()
        self.num_frames += len(path)
        self._previous = int(path[-1])
        spoken = (path != self.blank_id).nonzero()
        self.trailing_blanks = len(path) - 1 - int(spoken[-1]) if len(spoken) else self.trailing_blanks + len(path)
        return added
