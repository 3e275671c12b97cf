"""What every decoder gives: tokens with the frames they were said in, and how sure the posteriors were.

Knows tensors only. Shapes: T frames, U tokens.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Hypothesis(NamedTuple):
    """One reading of an utterance."""

    tokens: list[int]  # [U], collapsed, without blanks
    frames: list[int]  # [U], where each was first emitted
    ends: list[int]  # [U], the last frame of each
    log_probs: list[float]  # [U], the highest log-posterior of each within its frames
    score: float  # of the whole, natural logarithm; with a language model its weighted share included
    words: tuple[str, ...] | None = None  # from a lexicon; None: the tokens spell them


NOTHING = Hypothesis([], [], [], [], 0.0)


class StreamDecoder(Protocol):
    """Decodes one stream. The result does not depend on how the stream was cut."""

    @property
    def num_frames(self) -> int:
        """Frames seen so far."""

    @property
    def trailing_blanks(self) -> int:
        """Frames at the end whose likeliest token is the blank: what endpoint rules read."""

    def reset(self) -> None:
        """Start a new stream."""

    def accept(self, log_probs: Tensor) -> object:
        """The next frames, [T, V]."""

    def finish(self) -> None:
        """The stream has ended; nothing follows before `reset`."""

    def nbest(self) -> list[Hypothesis]:
        """The best first; before `finish` only one, which may yet change."""


class Decoder(Protocol):
    """Turns posteriors into hypotheses, whole utterances or streams."""

    def decode(self, log_probs: Tensor, lens: Tensor) -> list[list[Hypothesis]]:
        """[B, T, V] with lengths [B] → at least one hypothesis an utterance, the best first."""

    def stream(self) -> StreamDecoder:
        """A stream of its own."""


class Collapsed(NamedTuple):
    """Tokens of a stretch of a path."""

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
                    # A stream may begin within a token only after another stretch of it, which is here.
                    self.ends[-1] = frame
                    self.log_probs[-1] = max(self.log_probs[-1], value)
            previous = token


def collapse_path(path: Sequence[int], values: Sequence[float], frames: Iterable[int], blank_id: int) -> Collapsed:
    """Tokens of a whole path; see `Collapsed.append`."""
    collapsed = Collapsed([], [], [], [])
    collapsed.append(path, values, frames, blank_id, blank_id)
    return collapsed


def distinct(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Each text once, in the order given: paths of a search may differ in blanks and separators alone."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for item in hypotheses:
        said = item.words if item.words is not None else tuple(item.tokens)
        if said not in seen:
            seen.add(said)
            kept.append(item)
    return kept
