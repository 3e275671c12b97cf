"""Words with times and confidences from a hypothesis.

Times are those of emission, in whole frames. A streaming model emits a token after it was spoken.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from asr_kd.decoding.base import Hypothesis
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary


class Word(NamedTuple):
    """Word of a transcript."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float  # 0 to 1


def text_of(hypothesis: Hypothesis, vocabulary: Vocabulary) -> str:
    """Return the text of a hypothesis."""
    return vocabulary.decode(hypothesis.tokens) if hypothesis.words is None else " ".join(hypothesis.words)


def words_of(
    hypothesis: Hypothesis, vocabulary: Vocabulary, frame_shift_ms: float, offset_ms: float = 0.0
) -> list[Word]:
    """Return the words of a hypothesis, in order.

    A word begins with the first frame of its first token and ends after the last frame of its last. Its confidence is
    the geometric mean of its tokens' posteriors, each where it is highest, so that it does not depend on the length.

    Args:
        hypothesis: of any decoder; with a lexicon, its words are those of the search.
        vocabulary: of its tokens.
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
