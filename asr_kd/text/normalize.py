"""Normalizers: references and hypotheses as comparable words.

Every printed number states its normalizer; error rates under different ones are not comparable. Whisper's English
normalizer comes from the package whisper-normalizer (extra `whisper`), which only this file imports.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Literal, get_args

from asr_kd.errors import import_extra

Normalizer = Literal["none", "librispeech", "unicode"]
"""`none` leaves text as it is; `librispeech` writes English as that corpus does: upper case, words and '; `unicode` is
for all languages and scripts: case folded, without punctuation."""

ScoringNormalizer = Literal["none", "librispeech", "unicode", "whisper"]
"""For scoring English there is `whisper` too. It rewrites words ("21" for "twenty one"), so it is not for training."""

CACHED_TEXTS = 50_000
"""Results of `whisper` that are kept; references are normalized for every system."""

_ASCII_OTHER = re.compile(r"[^A-Z0-9']+")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'"))
_INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's default-ignorable characters: soft hyphen, joiners (ZWJ, ZWNJ), marks of direction, variation selectors."""

_INSIDE_WORDS = "'·׳״"
"""Punctuation that belongs to a word between two of its letters."""


def normalize(text: str, normalizer: ScoringNormalizer) -> str:
    """Rewrite a transcript so that equal words are equal strings; twice gives the same as once, except with `whisper`.

    `librispeech`: NFC, curly apostrophes straight, upper case, everything but letters, marks, digits and ' to a space,
    apostrophes outside words dropped. Invisible characters (soft hyphen, joiners) are dropped; ı differs from i.
    `unicode`: Unicode's NFKC_Casefold, then everything but letters, marks and digits to a space; apostrophes (also ’ `
    and ´), middle dots, geresh and gershayim stay inside words. Marks such as the vowel signs of Indic scripts stay
    with their letters; marks without a letter before them are dropped.
    `whisper`: Radford et al. 2022, appendix C; lower case, American spelling, contractions expanded, numbers as digits,
    fillers and text in brackets dropped. English only.

    Raises:
        ValueError: no such normalizer.
        MissingExtraError: `whisper` needs the extra of that name.
    """
    if normalizer == "none":
        return text
    if normalizer == "whisper":
        return _whisper_normalizer()(text)
    if normalizer == "unicode":
        return _normalize_any_script(text)
    if normalizer != "librispeech":
        raise ValueError(f"normalizer {normalizer!r}: expected one of {', '.join(get_args(ScoringNormalizer))}")
    if text.isascii():  # most of English: the same, faster
        words = _ASCII_OTHER.sub(" ", text.upper().replace("`", "'")).split()
        return " ".join(word for word in words if word.strip("'"))
    # NFC after upper case, which can separate a letter from its mark (ǰ → J + caron).
    composed = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    upper = "ı".join(part.upper() for part in composed.split("ı"))
    upper = unicodedata.normalize("NFC", upper).translate(_APOSTROPHES)
    words = "".join(symbol if symbol == "'" or _is_word_part(symbol) else " " for symbol in upper).split()
    return " ".join(word for word in words if word.strip("'"))


def letters_beyond_english(texts: Iterable[str]) -> str:
    """Return the letters and marks of texts that English rules (`librispeech`, `whisper`) are not made for, sorted.

    These are letters of other scripts than Latin, their marks, and the dotless ı.
    """
    symbols = {symbol for text in texts if not text.isascii() for symbol in text}
    return "".join(sorted(symbol for symbol in symbols if not symbol.isascii() and _is_beyond_english(symbol)))


def _is_beyond_english(symbol: str) -> bool:
    category = unicodedata.category(symbol)[0]
    if category == "M":
        return not "\u0300" <= symbol <= "\u036f"
    latin = symbol in "ʼªº" or unicodedata.name(symbol, "").startswith("LATIN")
    return symbol == "ı" or (category == "L" and not latin)


@functools.lru_cache(maxsize=4_096)
def _is_word_part(symbol: str) -> bool:
    return unicodedata.category(symbol)[0] in "LMN"


def _normalize_any_script(text: str) -> str:
    before = None
    text = _INVISIBLE.sub("", text).translate(_APOSTROPHES)  # NFKC would make a space and a mark of ´
    while text != before:  # folding can give characters that compose or fold again
        before, text = text, unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = _INVISIBLE.sub("", text)
    kept = [
        symbol if symbol in _INSIDE_WORDS or _is_word_part(symbol) else " " for symbol in text.translate(_APOSTROPHES)
    ]
    words = (_without_loose_ends(word) for word in "".join(kept).split())
    return " ".join(word for word in words if word)


def _without_loose_ends(word: str) -> str:
    """Drop punctuation at both ends, and marks that have lost their letter at the beginning: NFKC makes " ̈" of ¨."""
    start = 0
    while start < len(word) and (word[start] in _INSIDE_WORDS or unicodedata.category(word[start])[0] == "M"):
        start += 1
    return word[start:].rstrip(_INSIDE_WORDS)


@functools.cache
def _whisper_normalizer() -> Callable[[str], str]:
    library = import_extra("whisper_normalizer.english", "whisper", "whisper-normalizer")
    return functools.lru_cache(maxsize=CACHED_TEXTS)(library.EnglishTextNormalizer())
