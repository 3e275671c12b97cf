"""Best-path CTC decoding: the likeliest token of each frame, repeats collapsed, blanks dropped.

Source: Graves et al. 2006, "Connectionist Temporal Classification", section 3.2. For every way to cut an utterance into
chunks, `StreamingGreedy` gives the result of `greedy` over the whole utterance.

Shapes: B utterances, T frames, V vocabulary.
"""

import numpy as np
from torch import Tensor

from asr_kd.decoding.base import Collapsed, Hypothesis, collapse_path


def greedy(log_probs: Tensor, lens: Tensor, blank_id: int) -> list[Hypothesis]:
    """Decode a batch; the score of a hypothesis is the log-probability of its path.

    Args:
        log_probs: log-probabilities or logits, [B, T, V].
        lens: valid frames of each utterance, [B] integers from 0 to T; frames beyond are never read.

    Raises:
        ValueError: a shape, a length or the blank does not fit.
    """
    if log_probs.ndim != 3 or lens.shape != log_probs.shape[:1]:
        raise ValueError(f"log_probs {tuple(log_probs.shape)} and lens {tuple(lens.shape)}; expected [B, T, V] and [B]")
    num_frames, vocab_size = log_probs.shape[1:]
    if lens.numel() and not 0 <= int(lens.min()) <= int(lens.max()) <= num_frames:
        raise ValueError(f"lens reach from {int(lens.min())} to {int(lens.max())}; expected 0 to {num_frames}")
    if not 0 <= blank_id < vocab_size:
        raise ValueError(f"blank_id {blank_id} is outside the vocabulary of {vocab_size}")
    values, paths = (part.tolist() for part in log_probs.max(dim=-1))
    found = []
    for row, length in enumerate(lens.tolist()):
        best = values[row][:length]
        found.append(Hypothesis(*collapse_path(paths[row][:length], best, range(length), blank_id), sum(best)))
    return found


class GreedyDecoder:
    """Best path as a `base.Decoder`."""

    def __init__(self, blank_id: int) -> None:
        self.blank_id = blank_id

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[Hypothesis]]:
        """One hypothesis of each utterance, see `greedy`."""
        return [[hypothesis] for hypothesis in greedy(log_probs, lens, self.blank_id)]

    def stream(self) -> "StreamingGreedy":
        return StreamingGreedy(self.blank_id)


class StreamingGreedy:
    """Best path of one stream, chunk by chunk; a token that continues across a border counts once.

    Attributes:
        num_frames: frames decoded so far.
        trailing_blanks: blank frames since the last frame that was not blank, as endpoint rules need it.
    """

    def __init__(self, blank_id: int) -> None:
        self.blank_id = blank_id
        self.reset()

    def reset(self) -> None:
        self._collapsed = Collapsed([], [], [], [])
        self._score = 0.0
        self.num_frames = 0
        self.trailing_blanks = 0
        self._previous = self.blank_id

    def accept(self, log_probs: Tensor) -> None:
        """Decode the next chunk, log-probabilities or logits of the following frames, [T, V]; T may be 0.

        Raises:
            ValueError: not of that shape, or the blank lies outside the vocabulary.
        """
        if log_probs.ndim != 2 or not 0 <= self.blank_id < log_probs.shape[1]:
            raise ValueError(f"log_probs {tuple(log_probs.shape)}; expected [T, V] with V above blank {self.blank_id}")
        if len(log_probs) == 0:
            return
        values = log_probs.detach().float().cpu().numpy()  # numpy is faster for so few numbers
        best = values.argmax(axis=-1)  # [T]
        path, path_values = best.tolist(), values[np.arange(len(best)), best].tolist()
        numbers = range(self.num_frames, self.num_frames + len(path))
        self._collapsed.append(path, path_values, numbers, self._previous, self.blank_id)
        self._score += sum(path_values)
        self.num_frames += len(path)
        self._previous = path[-1]
        blanks = next((i for i, token in enumerate(reversed(path)) if token != self.blank_id), None)
        self.trailing_blanks = self.trailing_blanks + len(path) if blanks is None else blanks

    def finish(self) -> None:
        """End the stream; nothing is left to decide."""

    def nbest(self) -> list[Hypothesis]:
        return [Hypothesis(*self._collapsed, self._score)]
