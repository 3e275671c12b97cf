"""Words and phrases that a beam search prefers: an automaton over characters that scores the next ones.

A phrase adds its score in equal parts from its first character to the end of its last word. The parts are subtracted
again where the text continues otherwise (Aho & Corasick 1975; Zhao et al. 2019, "Shallow-fusion end-to-end contextual
biasing"). The automaton works on characters, so it suits any vocabulary and whole words; phrases begin and end at word
borders: CAT does not match in CATALOG.
"""

import unicodedata
from collections import deque
from collections.abc import Sequence

from asr_kd.errors import LanguageModelError
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary


def written_hotword(phrase: str, vocabulary: Vocabulary) -> str:
    """Return a hotword as the vocabulary writes it: unchanged, or in upper or lower case.

    Raises:
        LanguageModelError: it holds characters that no token contains, so that it could never match.
    """
    known = {character for symbol in vocabulary.symbols for character in symbol} | {" "}
    phrase = " ".join(unicodedata.normalize("NFC", phrase).split())
    for written in (phrase, phrase.upper(), phrase.lower()):
        if set(written) <= known:
            return written
    unknown = min((set(written) - known for written in (phrase, phrase.upper(), phrase.lower())), key=len)
    raise LanguageModelError(
        f"the hotword {phrase!r} holds {', '.join(map(repr, sorted(unknown)))}",
        expected="characters of the model's tokens",
        remedy="Write hotwords as the transcripts are written, numbers and foreign letters spelled out",
    )


class Hotwords:
    """Automaton of phrases.

    Args:
        phrases: words between spaces.
        score: added for each occurrence of a phrase, nats; overlapping phrases each add theirs.

    Attributes:
        start: the state before the first word.
    """

    def __init__(self, phrases: Sequence[str], score: float) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._pending = [0.0]  # added in advance for a phrase that has begun
        self._earned = [0.0]  # added for good when the state is entered
        for phrase in dict.fromkeys(" ".join(phrase.split()) for phrase in phrases):
            self._add(WORD_SEPARATOR + phrase.replace(" ", WORD_SEPARATOR) + WORD_SEPARATOR, score)
        self._link()
        self._cache: dict[tuple[int, str], tuple[int, float]] = {}
        self.start = self._follow(0, WORD_SEPARATOR)

    def advance(self, state: int, text: str) -> tuple[int, float]:
        """Return the state after further text, and its addition to the score.

        Args:
            state: state after the text before.
            text: symbols of the vocabulary, U+2581 between words.
        """
        found = self._cache.get((state, text))
        if found is None:
            before, earned = state, 0.0
            for character in text:
                state = self._follow(state, character)
                earned += self._earned[state]
            found = state, earned + self._pending[state] - self._pending[before]
            self._cache[(before, text)] = found
        return found

    def finish(self, state: int) -> float:
        """Return the addition at the end of the text, which ends the last word; unfinished phrases lose their parts."""
        after, added = self.advance(state, WORD_SEPARATOR)
        return added - self._pending[after]

    def _add(self, pattern: str, score: float) -> None:
        state, done = 0, 0.0
        for index, character in enumerate(pattern):
            following = self._next[state].get(character)
            if following is None:
                following = len(self._next)
                self._next[state][character] = following
                self._next.append({})
                self._fail.append(0)
                self._pending.append(0.0)
                self._earned.append(0.0)
            state = following
            done = score * index / (len(pattern) - 1)  # the border before the first word adds nothing
            if index < len(pattern) - 1:
                self._pending[state] = max(self._pending[state], done)
        self._earned[state] += score

    def _link(self) -> None:
        """Set the state that follows a mismatch: that of the longest suffix which begins a phrase."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, following in self._next[state].items():
                self._fail[following] = self._follow(self._fail[state], character)
                queue.append(following)
            # A shorter phrase that ends here counts as well.
            self._earned[state] += self._earned[self._fail[state]]
            self._pending[state] = max(self._pending[state], self._pending[self._fail[state]])

    def _follow(self, state: int, character: str) -> int:
        while character not in self._next[state] and state:
            state = self._fail[state]
        return self._next[state].get(character, 0)
