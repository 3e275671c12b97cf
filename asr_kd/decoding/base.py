"""Interfaces of decoders, and the hypotheses they return: tokens with frames and log-posteriors.

Shapes: B utterances, T frames, V vocabulary, U tokens.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Hypothesis(NamedTuple):
    """One hypothesis of an utterance."""

    tokens: list[int]  # [U], collapsed, without blanks
    frames: list[int]  # [U], where each was first emitted
    ends: list[int]  # [U], the last frame of each
    log_probs: list[float]  # [U], highest log-posterior of each within its frames
    score: float  # natural logarithm, the weighted language model included
    words: tuple[str, ...] | None = None  # words of a lexicon; None: the tokens spell them


NOTHING = Hypothesis([], [], [], [], 0.0)


class StreamDecoder(Protocol):
    """Decoder of one stream. The result does not depend on how the stream is cut into chunks."""

    @property
    def num_frames(self) -> int:
        """Frames decoded so far."""

    @property
    def trailing_blanks(self) -> int:
        """Frames at the end whose likeliest token is the blank, as endpoint rules need it."""

    def reset(self) -> None:
        """Start a new stream."""

    def accept(self, log_probs: Tensor) -> object:
        """Decode the next frames, [T, V]."""

    def finish(self) -> None:
        """End the stream; nothing may follow before `reset`."""

    def nbest(self) -> list[Hypothesis]:
        """Return hypotheses, the best first; before `finish` only one, which may change."""


class Decoder(Protocol):
    """Decoder of whole utterances and of streams."""

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[Hypothesis]]:
        """[B, T, V] with lengths [B] → at least one hypothesis per utterance, the best first."""

    def stream(self) -> StreamDecoder:
        """Return a decoder of one stream."""


class Collapsed(NamedTuple):
    """Collapsed tokens of a part of a path."""

    tokens: list[int]
    frames: list[int]
    ends: list[int]
    log_probs: list[float]

    def append(
        self, path: Sequence[int], values: Sequence[float], frames: Iterable[int], previous: int, blank_id: int
    ) -> None:
        """Collapse the next frames of a path: repeats are one token, blanks none.

        Args:
            path: token of each frame, [T].
            values: log-posterior of that token in that frame, [T].
            frames: their numbers, [T].
            previous: token of the frame before.
            blank_id: the CTC blank.
        """
        for frame, token, value in zip(frames, path, values, strict=False):
            if token != blank_id:
                if token != previous:
                    self.tokens.append(token)
                    self.frames.append(frame)
                    self.ends.append(frame)
                    self.log_probs.append(value)
                else:
                    # A chunk begins within a token only where the chunk before holds its beginning.
                    self.ends[-1] = frame
                    self.log_probs[-1] = max(self.log_probs[-1], value)
            previous = token


def collapse_path(path: Sequence[int], values: Sequence[float], frames: Iterable[int], blank_id: int) -> Collapsed:
    """Tokens of a whole path; see `Collapsed.append`."""
    collapsed = Collapsed([], [], [], [])
    collapsed.append(path, values, frames, blank_id, blank_id)
    return collapsed


def distinct(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Keep the first hypothesis of each text; paths of a search may differ in blanks and separators only."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for item in hypotheses:
        text = item.words if item.words is not None else tuple(item.tokens)
        if text not in seen:
            seen.add(text)
            kept.append(item)
    return kept
