"""Words and phrases that a beam search prefers: an automaton over characters that says what the next ones earn.

A phrase earns its score in equal parts from its first character to the end of its last word, and gives the parts back
where the text goes another way; whole, it keeps them (Aho & Corasick 1975; the idea of parts and giving back is that
of "Shallow-fusion end-to-end contextual biasing", Zhao et al. 2019). Over characters, so that it holds for any
vocabulary and for whole words alike, and only between word borders: CAT is not heard in CATALOG. Knows no decoder.
"""

from collections import deque
from collections.abc import Sequence

from asr_kd.text.vocabulary import WORD_SEPARATOR


class Hotwords:
    """The automaton.

    Args:
        phrases: words between spaces.
        score: what each occurrence of a phrase adds, nats. Phrases that overlap each add theirs.

    Attributes:
        start: the state before the first word.
    """

    def __init__(self, phrases: Sequence[str], score: float) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._pending = [0.0]  # given in advance for a phrase that has begun
        self._earned = [0.0]  # kept for good when the state is entered
        for phrase in dict.fromkeys(" ".join(phrase.split()) for phrase in phrases):
            self._add(WORD_SEPARATOR + phrase.replace(" ", WORD_SEPARATOR) + WORD_SEPARATOR, score)
        self._link()
        self._known: dict[tuple[int, str], tuple[int, float]] = {}
        self.start = self._follow(0, WORD_SEPARATOR)

    def advance(self, state: int, text: str) -> tuple[int, float]:
        """The state after further text, and what it adds to the score.

        Args:
            state: where the text before ended.
            text: symbols of the vocabulary, U+2581 between words.
        """
        found = self._known.get((state, text))
        if found is None:
            before, earned = state, 0.0
            for character in text:
                state = self._follow(state, character)
                earned += self._earned[state]
            found = state, earned + self._pending[state] - self._pending[before]
            self._known[(before, text)] = found
        return found

    def finish(self, state: int) -> float:
        """What the end of the text adds: it ends the last word, and what has only begun is given back."""
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
            done = score * index / (len(pattern) - 1)  # the border before the first word earns nothing
            if index < len(pattern) - 1:
                self._pending[state] = max(self._pending[state], done)
        self._earned[state] += score

    def _link(self) -> None:
        """Where to go on when no phrase goes on: the longest end of the text that begins one."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, following in self._next[state].items():
                self._fail[following] = self._follow(self._fail[state], character)
                queue.append(following)
            # A shorter phrase that ends here counts as well, and what is given in advance is never less.
            self._earned[state] += self._earned[self._fail[state]]
            self._pending[state] = max(self._pending[state], self._pending[self._fail[state]])

    def _follow(self, state: int, character: str) -> int:
        while character not in self._next[state] and state:
            state = self._fail[state]
        return self._next[state].get(character, 0)
