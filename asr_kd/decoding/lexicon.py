"""The words that a beam search may output, and their spellings in the vocabulary.

Of a pronunciation lexicon only the words are read.
"""

import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asr_kd.errors import LanguageModelError, VocabularyError
from asr_kd.text.kneser_ney import SPECIAL
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary

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
    """
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
    try:
        with open_text(path) as file:
            columns = (line.split(maxsplit=1) for line in file)
            words = [column[0] for column in columns if column and column[0] not in SPECIAL]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LanguageModelError(
            f"cannot be read ({error})", where=path, expected="a lexicon or list of words, UTF-8, a word a line"
        ) from error
    if not words:
        raise LanguageModelError("holds no word", where=path, expected="a word a line")
    return words


def open_text(path: Path):  # type: ignore[no-untyped-def]  # two kinds of file
    """Open a text file, decompressed if its name ends in .gz."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def separator_of(vocabulary: Vocabulary) -> int | None:
    """Return the token between words of a character vocabulary; None for subwords, which begin with it."""
    if vocabulary.bpe is not None or WORD_SEPARATOR not in vocabulary.symbols:
        return None
    return vocabulary.symbols.index(WORD_SEPARATOR)


def _examples(vocabulary: Vocabulary) -> str:
    return " ".join(symbol for symbol in vocabulary.symbols if symbol.strip(WORD_SEPARATOR).isalpha())[:40]
