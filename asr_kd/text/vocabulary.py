"""Vocabularies of characters or subwords, with `tokens.txt` in sherpa-onnx's format.

The client prints a leading U+2581 of a symbol as a space: a character vocabulary has a single U+2581 as its word
separator, and a subword that begins a word begins with it. Symbols hold no white space. The file `bpe.model` beside
tokens.txt splits text into subwords.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, zip_longest
from pathlib import Path

from asr_kd.errors import VocabularyError
from asr_kd.files import atomic_path, write_text
from asr_kd.text.bpe import MODEL, BpeModel, train_bpe

BLANK = "<blk>"
"""CTC's blank, under sherpa-onnx's name."""

WORD_SEPARATOR = "▁"
"""U+2581, which the client prints as a space."""


def is_mark(symbol: str) -> bool:
    """Whether a symbol such as `<unk>` is no text."""
    return len(symbol) > 1 and (symbol[0], symbol[-1]) == ("<", ">")


def min_ctc_frames(tokens: Sequence[object]) -> int:
    """Frames that CTC needs at least to emit these tokens: one each, and a blank between equal neighbours."""
    return len(tokens) + sum(first == second for first, second in pairwise(tokens))


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a CTC output, by token id.

    Args:
        symbols: symbol of each id from 0; distinct, without white space, with `<blk>` among them.
        bpe: bytes of the bpe.model that splits text into these symbols; None for characters.

    Raises:
        VocabularyError: a symbol is empty, repeated or holds white space, there is no blank, or the bpe.model has
            other symbols.
    """

    symbols: tuple[str, ...]
    bpe: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_symbols(self.symbols, where="vocabulary")
        if self.bpe is not None:
            _check_pieces(self.symbols, BpeModel(self.bpe).symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    @staticmethod
    def characters(texts: Iterable[str]) -> "Vocabulary":
        """Return `<blk>`, the word separator, then every character of the texts, sorted.

        Raises:
            VocabularyError: a text holds U+2581 itself, which would be read as a space.
        """
        seen = {character for text in texts for character in text if not character.isspace()}
        if WORD_SEPARATOR in seen:
            raise VocabularyError(
                "a transcript holds U+2581, the word separator", expected="spaces between words", where="transcripts"
            )
        return Vocabulary((BLANK, WORD_SEPARATOR, *sorted(seen)))

    @staticmethod
    def subwords(texts: Iterable[str], size: int) -> "Vocabulary":
        """Return `<blk>` and `size − 1` subwords learned from the texts, with every character; see `train_bpe`."""
        bpe = train_bpe(texts, size, BLANK)
        return Vocabulary(BpeModel(bpe).symbols, bpe)

    @cached_property
    def blank_id(self) -> int:
        """Token id of `<blk>`."""
        return self.symbols.index(BLANK)

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the canonical tokens.txt, and of bpe.model where there is one."""
        return hashlib.sha256(self._tokens_text().encode() + (b"\0" + self.bpe if self.bpe else b"")).hexdigest()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: index for index, symbol in enumerate(self.symbols)}

    @cached_property
    def _model(self) -> BpeModel | None:
        return None if self.bpe is None else BpeModel(self.bpe)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a transcript: characters with separators between words, or subwords.

        Raises:
            VocabularyError: names the characters that are not in the vocabulary; or there are subwords without a
                bpe.model.
        """
        unknown = self.unknown_characters(text)
        if unknown:
            raise VocabularyError(
                f"the text {text[:80]!r} holds {', '.join(map(repr, unknown))}",
                expected=f"characters of the vocabulary ({len(self)} symbols)",
                remedy="Normalize the transcripts, or build the vocabulary from them; asr-kd check lists all such rows",
            )
        if self._model is not None:
            return self._model.encode(text)
        if any(len(symbol) > 1 and not is_mark(symbol) for symbol in self.symbols):
            raise VocabularyError(
                f"the vocabulary has subwords but no {MODEL} to split text into them",
                expected=f"{MODEL} beside tokens.txt",
                remedy="Copy it there from the system that the tokens.txt comes from",
            )
        return [self._ids[symbol] for symbol in _symbols_of(text)]

    def unknown_characters(self, text: str) -> list[str]:
        """Return the characters of a text that have no token, sorted, each once."""
        characters = set(_symbols_of(text))
        if self._model is None:
            return sorted(characters - self._ids.keys())
        never = {self._model.unknown_id, self.blank_id}
        if not never & set(self._model.encode(text)):
            return []
        return sorted(characters - self._ids.keys()) or [BLANK]  # some models encode the name of the blank as the blank

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the words of collapsed token ids without blanks, with one space between words.

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
        """Write tokens.txt, one "symbol id" per line, ids from 0, and bpe.model beside it, if there is one."""
        model = path.with_name(MODEL)
        if self.bpe is None:
            model.unlink(missing_ok=True)  # of an earlier vocabulary
        else:
            with atomic_path(model) as partial:
                partial.write_bytes(self.bpe)
        write_text(path, self._tokens_text())

    @staticmethod
    def load(path: Path) -> "Vocabulary":
        """Read tokens.txt, and bpe.model if it exists beside it.

        Raises:
            VocabularyError: unreadable; a row that is not "symbol id"; ids not from 0 without gaps; a symbol
                twice; no blank; a bpe.model of other symbols. The row is named.
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
        model, bpe = path.with_name(MODEL), None
        try:
            bpe = model.read_bytes() if model.exists() else None
        except OSError as error:
            raise VocabularyError(f"cannot be read ({error})", where=model, expected="a sentencepiece model") from error
        if bpe is not None:
            _check_pieces(symbols, BpeModel(bpe, model).symbols, model)
        return Vocabulary(tuple(symbols), bpe)

    def _tokens_text(self) -> str:
        return "".join(f"{symbol} {index}\n" for index, symbol in enumerate(self.symbols))


def _symbols_of(text: str) -> str:
    return WORD_SEPARATOR.join(text.split())


def _check_pieces(symbols: Sequence[str], pieces: Sequence[str], where: str | Path = MODEL) -> None:
    """Refuse a bpe.model with other symbols; only the blank may have another name."""
    blank = symbols.index(BLANK)
    for index, (symbol, piece) in enumerate(zip_longest(symbols, pieces)):
        if symbol != piece and (index != blank or piece is None):
            raise VocabularyError(
                f"id {index} is {piece!r} there and {symbol!r} in tokens.txt",
                where=where,
                expected=f"the same {len(symbols)} symbols in both",
                remedy="The two files come from different vocabularies: copy both again from one place",
            )


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
