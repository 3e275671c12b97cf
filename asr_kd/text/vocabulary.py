"""The tokens a model writes: characters now, with `tokens.txt` as sherpa-onnx reads it.

The client prints a leading U+2581 of a symbol as one space, so a character vocabulary has a lone U+2581 as its
word separator; a symbol never holds white space. Knows nothing of models. Subword vocabularies (BPE) will stand
beside `characters` as another constructor: `decode` and `tokens.txt` already treat symbols of any length.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from asr_kd.errors import VocabularyError
from asr_kd.files import write_text

BLANK = "<blk>"
"""CTC's blank, by the name sherpa-onnx looks for."""

WORD_SEPARATOR = "▁"
"""U+2581, which the client prints as a space."""


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a CTC output, by token id.

    Args:
        symbols: symbol of each id from 0; distinct, without white space, with `<blk>` among them.

    Raises:
        VocabularyError: a symbol is empty, repeated or holds white space, or there is no blank.
    """

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_symbols(self.symbols, where="vocabulary")

    def __len__(self) -> int:
        return len(self.symbols)

    @staticmethod
    def characters(texts: Iterable[str]) -> "Vocabulary":
        """`<blk>`, the word separator, then every character seen in the texts, sorted.

        Raises:
            VocabularyError: a text holds U+2581 itself, which would be read as a space.
        """
        seen = {character for text in texts for character in text if not character.isspace()}
        if WORD_SEPARATOR in seen:
            raise VocabularyError(
                "a transcript holds U+2581, the word separator", expected="spaces between words", where="transcripts"
            )
        return Vocabulary((BLANK, WORD_SEPARATOR, *sorted(seen)))

    @cached_property
    def blank_id(self) -> int:
        """Token id of `<blk>`."""
        return self.symbols.index(BLANK)

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the canonical tokens.txt: equal exactly when symbols and ids are."""
        return hashlib.sha256(self._tokens_text().encode()).hexdigest()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: index for index, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> list[int]:
        """Token ids of a transcript: words joined by the separator, none at either end.

        Raises:
            VocabularyError: names the characters that are not in the vocabulary.
        """
        try:
            return [self._ids[symbol] for symbol in _symbols_of(text)]
        except KeyError:
            raise VocabularyError(
                f"the text {text[:80]!r} holds {', '.join(map(repr, self.unknown_characters(text)))}",
                expected=f"characters of the vocabulary ({len(self)} symbols)",
                remedy="Normalize the transcripts, or build the vocabulary from them; asr-kd check lists all such rows",
            ) from None

    def unknown_characters(self, text: str) -> list[str]:
        """Characters of a text that have no token, sorted, each once."""
        return sorted({symbol for symbol in _symbols_of(text) if symbol not in self._ids})

    def decode(self, token_ids: Sequence[int]) -> str:
        """Words of token ids that are already collapsed and without blanks, one space between words.

        Raises:
            VocabularyError: an id outside the vocabulary.
        """
        try:
            if min(token_ids, default=0) < 0:
                raise IndexError
            joined = "".join(self.symbols[token] for token in token_ids)
        except IndexError:
            raise VocabularyError(
                f"token ids from {min(token_ids)} to {max(token_ids)}", expected=f"0 to {len(self) - 1}"
            ) from None
        return " ".join(word for word in joined.split(WORD_SEPARATOR) if word)

    def save(self, path: Path) -> None:
        """Write tokens.txt: one "symbol id" a line, ids from 0."""
        write_text(path, self._tokens_text())

    @staticmethod
    def load(path: Path) -> "Vocabulary":
        """Read tokens.txt.

        Raises:
            VocabularyError: unreadable; a row that is not "symbol id"; ids not from 0 without gaps; a symbol
                twice; no blank. The row is named.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise VocabularyError(f"cannot be read ({error})", where=path, expected="tokens.txt in UTF-8") from error
        symbols: list[str] = []
        # Not splitlines(): a token may be a character that Unicode counts as a line break.
        for row, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            symbol, _, index = line.removesuffix("\r").rpartition(" ")
            if not symbol or index != str(len(symbols)):
                raise VocabularyError(
                    f"row {line!r}", where=f"{path}:{row}", expected=f'"symbol {len(symbols)}": ids run from 0, no gaps'
                )
            symbols.append(symbol)
        _check_symbols(symbols, where=path)
        return Vocabulary(tuple(symbols))

    def _tokens_text(self) -> str:
        return "".join(f"{symbol} {index}\n" for index, symbol in enumerate(self.symbols))


def _symbols_of(text: str) -> str:
    return WORD_SEPARATOR.join(text.split())


def _check_symbols(symbols: Sequence[str], where: str | Path) -> None:
    first_seen: dict[str, int] = {}
    for index, symbol in enumerate(symbols):
        if not symbol or symbol.split() != [symbol]:
            raise VocabularyError(
                f"symbol {symbol!r} of id {index} is empty or holds white space",
                where=where,
                expected="visible symbols",
            )
        if symbol in first_seen:
            raise VocabularyError(
                f"symbol {symbol!r} has the ids {first_seen[symbol]} and {index}",
                where=where,
                expected="each symbol once",
            )
        first_seen[symbol] = index
    if BLANK not in first_seen:
        raise VocabularyError(
            f"there is no {BLANK} among its {len(symbols)} symbols",
            where=where,
            expected=f"CTC's blank under the name {BLANK}",
            remedy="sherpa-onnx ends the whole process on such a file: export the model again",
        )
