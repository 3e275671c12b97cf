"""Subwords by byte-pair encoding (Sennrich 2016), with sentencepiece, which only this file imports.

Piece 0 is the unknown piece under the name of CTC's blank. No text encodes to it, because unknown characters are
refused before, so ids are the same in tokens.txt, in bpe.model and in exported models. Text is split at white space
only. A bpe.model is data: nothing in it runs.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from asr_kd.errors import VocabularyError

MODEL = "bpe.model"
"""File name, beside tokens.txt."""

RESERVED = {"▁": "the word separator", "▅": "sentencepiece's own mark of unknown text"}
"""U+2581 and U+2585 have a meaning in sentencepiece, which skips sentences with the second."""


class BpeModel:
    """A sentencepiece model, the bytes of a bpe.model, ready to encode; a VocabularyError for others."""

    def __init__(self, content: bytes, where: str | Path = MODEL) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise VocabularyError(
                "is not a sentencepiece model", where=where, expected="what sentencepiece writes"
            ) from error
        if not content or not self._processor.vocab_size():  # an empty file would pass as an empty model
            raise VocabularyError("is empty", where=where, expected="a sentencepiece model")

    @property
    def symbols(self) -> tuple[str, ...]:
        """The piece of each id."""
        return tuple(self._processor.id_to_piece(index) for index in range(self._processor.vocab_size()))

    @property
    def unknown_id(self) -> int:
        """Id of characters without a piece."""
        return int(self._processor.unk_id())

    def encode(self, text: str) -> list[int]:
        """Piece ids of a text."""
        return list(self._processor.encode(" ".join(text.split())))


def train_bpe(texts: Iterable[str], size: int, blank: str) -> bytes:
    """Learn `size` pieces, the blank among them, from transcripts; the order of the texts does not matter.

    Every character of the texts gets a piece of its own, so each of the texts can be written.

    Raises:
        VocabularyError: no text, a reserved character in it, or a size outside the range that the message states.
    """
    sentences = sorted(filter(None, (" ".join(text.split()) for text in texts)))
    if not sentences:
        raise VocabularyError(
            "there are no transcripts to learn subwords from",
            remedy="Name a text (vocabulary.text), or use vocabulary.kind: file with the tokens.txt and bpe.model of "
            "another system",
        )
    for character, meaning in RESERVED.items():
        if any(character in sentence for sentence in sentences):
            raise VocabularyError(
                f"a transcript holds U+{ord(character):04X}, {meaning}", expected="ordinary text", where="transcripts"
            )
    longest = max(len(sentence.encode()) for sentence in sentences)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            character_coverage=1.0,
            normalization_rule_name="identity",  # texts are normalized before
            unk_id=0,
            unk_piece=blank,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=longest + 10,  # longer ones are skipped, and less than 10 is refused
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _size_error(str(error), size, sentences) from error
    return model.getvalue()


def _size_error(message: str, size: int, sentences: list[str]) -> VocabularyError:
    """The error about a size that sentencepiece refuses."""
    characters = len({character for sentence in sentences for character in sentence if character != " "})
    most = re.search(r"set it to a value <= (\d+)", message)
    if most is not None:
        allowed = f"at most {most[1]}: these transcripts hold no more subwords"
    elif "smaller than required_chars" in message:
        allowed = f"at least {characters + 2}: {characters} characters, the word separator and the blank"
    else:
        return VocabularyError(f"sentencepiece cannot learn from these transcripts: {' '.join(message.split())[:300]}")
    return VocabularyError(f"vocabulary.size {size}", expected=allowed, remedy="Change vocabulary.size")
