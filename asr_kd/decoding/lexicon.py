"""Words that a beam search may output (lexicon), and words and phrases that it prefers (hotwords).

Of a pronunciation lexicon only the words are read; the vocabulary spells them.

Hotwords are an automaton over characters. A phrase adds its score in equal parts from its first character to the end of
its last word. The parts are subtracted again where the text continues otherwise (Aho & Corasick 1975; Zhao et al. 2019,
"Shallow-fusion end-to-end contextual biasing"). Characters suit any vocabulary and whole words; phrases begin and end
at word borders: CAT does not match in CATALOG.
"""

import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_kd.errors import LanguageModelError, VocabularyError
from asr_kd.text.kneser_ney import SPECIAL, reading_text
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary, is_mark

SMALLEST_SHARE = 0.5
"""Share of a lexicon's words that the vocabulary must spell; below, its language or case is another."""


@dataclass(frozen=True)
class Lexicon:
    """Words and their spellings.

    Attributes:
        spellings: word → its spellings, token ids.
        left_out: words that the vocabulary cannot spell.
        ends_in_separator: whether spellings end in the word separator, which is absent after an utterance's last word.
    """

    spellings: dict[str, list[list[int]]]
    left_out: int
    ends_in_separator: bool

    def lines(self) -> Iterator[str]:
        """Lines in flashlight's format, tokens named by their ids."""
        for word, spellings in self.spellings.items():
            for spelling in spellings:
                yield f"{word} {' '.join(map(str, spelling))}\n"


def build_lexicon(words: Iterable[str], vocabulary: Vocabulary, where: str | Path = "lexicon") -> Lexicon:
    """Return a lexicon of words.

    A word of characters ends in the word separator. Subwords have none, and flashlight lets the last token of a word
    fill only one frame; therefore each word is also spelled with that token twice, which collapses to the same.

    Raises:
        LanguageModelError: no word, or the vocabulary cannot spell half of them.
        VocabularyError: subwords without the model that splits words into them.
    """
    vocabulary.encode("")  # an error that is not about a word is not counted as one
    separator = separator_of(vocabulary)
    spellings: dict[str, list[list[int]]] = {}
    seen = 0
    for word in dict.fromkeys(words):
        seen += 1
        try:
            tokens = vocabulary.encode(word)
        except VocabularyError:
            continue
        if tokens:
            spellings[word] = [[*tokens, separator]] if separator is not None else [tokens, [*tokens, tokens[-1]]]
    if not spellings or len(spellings) < SMALLEST_SHARE * seen:
        raise LanguageModelError(
            f"the vocabulary can spell {len(spellings)} of its {seen} words",
            where=where,
            expected=f"at least {SMALLEST_SHARE:.0%}, written as in the vocabulary ({_examples(vocabulary)})",
            remedy="Write the words as the transcripts are written; check upper and lower case",
        )
    return Lexicon(spellings, seen - len(spellings), separator is not None)


def read_words(path: Path) -> list[str]:
    """Read the first column of each line, without marks such as <unk>.

    Raises:
        LanguageModelError: the file cannot be read or holds no word.
    """
    with reading_text(path, "a lexicon or list of words, UTF-8, a word a line") as file:
        columns = (line.split(maxsplit=1) for line in file)
        words = [column[0] for column in columns if column and column[0] not in SPECIAL]
    if not words:
        raise LanguageModelError("holds no word", where=path, expected="a word a line")
    return words


def separator_of(vocabulary: Vocabulary) -> int | None:
    """Return the token between words of a character vocabulary; None for subwords, which begin with it."""
    if vocabulary.bpe is not None or WORD_SEPARATOR not in vocabulary.symbols:
        return None
    return vocabulary.symbols.index(WORD_SEPARATOR)


def _examples(vocabulary: Vocabulary) -> str:
    return " ".join(symbol for symbol in vocabulary.symbols if symbol.strip(WORD_SEPARATOR).isalpha())[:40]


def written_hotword(phrase: str, vocabulary: Vocabulary) -> str:
    """Return a hotword as the vocabulary writes it: unchanged, or in upper or lower case.

    Raises:
        LanguageModelError: it holds characters that no token contains, so that it could never match.
    """
    texts = [symbol for symbol in vocabulary.symbols if not is_mark(symbol)]
    known = {character for symbol in texts for character in symbol} | {" "}
    phrase = " ".join(unicodedata.normalize("NFC", phrase).split())
    for written in (phrase, phrase.upper(), phrase.lower()):
        if set(written) <= known:
            return written
    unknown = min((set(written) - known for written in (phrase, phrase.upper(), phrase.lower())), key=len)
    raise LanguageModelError(
        f"the hotword {phrase!r} holds {', '.join(map(repr, sorted(unknown)))}",
        expected="characters of the model's tokens",
        remedy="Write hotwords as the transcripts are written, numbers and letters of other alphabets spelled out",
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
        """Return the state after further `text` (U+2581 between words), and its addition to the score."""
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
