"""References and hypotheses into comparable words.

One normalizer is stated for every number the project prints; WERs under different ones are not comparable.
Knows nothing of vocabularies or scores.
"""

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

from asr_kd.errors import MissingExtraError

Normalizer = Literal["none", "librispeech"]
"""`none` leaves the text as it is; `librispeech` writes it as that corpus does: upper case, words and '."""

ScoringNormalizer = Literal["none", "librispeech", "whisper"]
"""For scoring there is `whisper` too, which writes what nobody says ("21" for "twenty one"): not to train on."""

_ASCII_OTHER = re.compile(r"[^A-Z0-9']+")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'"))


def normalize(text: str, normalizer: ScoringNormalizer) -> str:
    """Rewrite a transcript so that equal words are equal strings.

    `librispeech`: NFC, curly apostrophes straight, upper case, everything but letters, marks, digits and ' to a
    space, apostrophes outside words dropped, white space collapsed. It never rewrites words (no "21" for
    "twenty one"), and applying it twice changes nothing.
    `whisper`: see `text.whisper`; English only.

    Raises:
        ValueError: no such normalizer.
        MissingExtraError: `whisper` needs the extra of that name.
    """
    if normalizer == "none":
        return text
    if normalizer == "whisper":
        return normalize_as_whisper(text)
    if normalizer != "librispeech":
        raise ValueError(f"normalizer {normalizer!r}: expected one of {', '.join(get_args(ScoringNormalizer))}")
    if text.isascii():  # most of English: the same, ten times faster
        words = _ASCII_OTHER.sub(" ", text.upper().replace("`", "'")).split()
        return " ".join(word for word in words if word.strip("'"))
    # NFC after upper case: that can leave a letter and its mark apart (ǰ → J + caron).
    upper = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).upper()).translate(_APOSTROPHES)
    words = "".join(symbol if symbol == "'" or _is_word_part(symbol) else " " for symbol in upper).split()
    return " ".join(word for word in words if word.strip("'"))


@functools.lru_cache(maxsize=4_096)  # half of a test set's scoring time otherwise
def _is_word_part(symbol: str) -> bool:
    return unicodedata.category(symbol)[0] in "LMN"


REMEMBERED = 50_000
"""Texts whose result is kept: references are normalized for every system, at a fifth of a millisecond each."""


@functools.lru_cache(maxsize=REMEMBERED)
def normalize_as_whisper(text: str) -> str:
    """A transcript as Whisper's papers score it.

    Raises:
        MissingExtraError: the extra `whisper` is not installed.
    """
    return _normalizer()(text)


@functools.cache
def _normalizer() -> Callable[[str], str]:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise MissingExtraError("whisper-normalizer", "whisper") from error
    return EnglishTextNormalizer()
