"""References and hypotheses into comparable words.

One normalizer is stated for every number the project prints; WERs under different ones are not comparable.
Knows nothing of vocabularies or scores.
"""

import unicodedata
from typing import Literal, get_args

Normalizer = Literal["none", "librispeech"]
"""`none` leaves the text as it is; `librispeech` writes it as that corpus does: upper case, words and '."""

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'"))


def normalize(text: str, normalizer: Normalizer) -> str:
    """Rewrite a transcript so that equal words are equal strings.

    `librispeech`: NFC, curly apostrophes straight, upper case, everything but letters, marks, digits and ' to a
    space, apostrophes outside words dropped, white space collapsed. It never rewrites words (no "21" for
    "twenty one"), and applying it twice changes nothing.

    Raises:
        ValueError: no such normalizer.
    """
    if normalizer == "none":
        return text
    if normalizer != "librispeech":
        raise ValueError(f"normalizer {normalizer!r}: expected one of {', '.join(get_args(Normalizer))}")
    # NFC after upper case: that can leave a letter and its mark apart (ǰ → J + caron).
    upper = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).upper()).translate(_APOSTROPHES)
    words = "".join(symbol if symbol == "'" or _is_word_part(symbol) else " " for symbol in upper).split()
    return " ".join(word for word in words if word.strip("'"))


def _is_word_part(symbol: str) -> bool:
    return unicodedata.category(symbol)[0] in "LMN"
