"""Interfaces of decoders, and the hypotheses they return: tokens with frames and log-posteriors, words with times.

Times are those of emission, in whole frames; a streaming model emits a token later than its sound.

Shapes: B utterances, T frames, V vocabulary, U tokens.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary


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

    def accept(self, log_probs: Tensor) -> None:
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

        `previous` is the token of the frame before; `values` are log-posteriors of the path in its `frames`, [T] each.
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


class Word(NamedTuple):
    """Word of a transcript."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float  # 0 to 1


def text_of(hypothesis: Hypothesis, vocabulary: Vocabulary) -> str:
    """Return the text of a hypothesis."""
    return vocabulary.decode(hypothesis.tokens) if hypothesis.words is None else " ".join(hypothesis.words)


def distinct(hypotheses: Sequence[Hypothesis], vocabulary: Vocabulary) -> list[Hypothesis]:
    """Keep the first hypothesis of each text; others may differ in separators or subwords only."""
    kept: dict[str, Hypothesis] = {}
    for item in hypotheses:
        kept.setdefault(text_of(item, vocabulary), item)
    return list(kept.values())


def words_of(
    hypothesis: Hypothesis, vocabulary: Vocabulary, frame_shift_ms: float, offset_ms: float = 0.0
) -> list[Word]:
    """Return the words of a hypothesis, in order.

    A word begins with the first frame of its first token and ends after the last frame of its last. Its confidence is
    the geometric mean of its tokens' posteriors, each where it is highest, so that it does not depend on the length.

    Args:
        frame_shift_ms: time from frame to frame.
        offset_ms: time of the first frame.
    """
    groups = _groups([vocabulary.symbols[token] for token in hypothesis.tokens])
    texts = [text for text, _ in groups]
    if hypothesis.words is not None and list(hypothesis.words) != texts:
        groups = _regrouped(hypothesis, vocabulary)
    words = []
    for text, places in groups:
        begin, end = hypothesis.frames[places[0]], hypothesis.ends[places[-1]] + 1
        sure = math.exp(min(sum(hypothesis.log_probs[place] for place in places) / len(places), 0.0))
        start, stop = (round((offset_ms + frame * frame_shift_ms) / 1000, 3) for frame in (begin, end))
        words.append(Word(text, start, stop, sure))
    return words


def _groups(symbols: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Words, each with the positions of its tokens; separators belong to none."""
    groups: list[tuple[str, list[int]]] = []
    begins = True
    for place, symbol in enumerate(symbols):
        parts = symbol.split(WORD_SEPARATOR)
        for index, part in enumerate(parts):
            begins = begins or index > 0
            if part:
                if begins:
                    groups.append(("", []))
                text, places = groups[-1]
                groups[-1] = (text + part, [*places, place] if place not in places else places)
                begins = False
    return groups


def _regrouped(hypothesis: Hypothesis, vocabulary: Vocabulary) -> list[tuple[str, list[int]]]:
    """Assign tokens to the words of the search where the tokens alone would be split otherwise.

    This happens where subwords end a word twice (see `lexicon.build_lexicon`), or where the beam left no separator
    between words. Each word takes its spelling, and a last token that is repeated at once.
    """
    groups: list[tuple[str, list[int]]] = []
    place, tokens = 0, hypothesis.tokens
    separator = next((i for i, symbol in enumerate(vocabulary.symbols) if symbol == WORD_SEPARATOR), None)
    for word in hypothesis.words or ():
        spelling = vocabulary.encode(word)
        while place < len(tokens) and tokens[place] != spelling[0] and tokens[place] == separator:
            place += 1
        places = list(range(place, min(place + len(spelling), len(tokens))))
        place += len(spelling)
        following = len(groups) + 1
        upcoming = (hypothesis.words or ())[following : following + 1]
        repeats = place < len(tokens) and tokens[place] == spelling[-1]
        if repeats and not (upcoming and vocabulary.encode(upcoming[0])[0] == tokens[place]):
            places.append(place)
            place += 1
        groups.append((word, places or [len(tokens) - 1]))
    return groups
