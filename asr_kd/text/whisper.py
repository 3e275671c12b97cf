"""Whisper's English normalizer, through the package whisper-normalizer (extra `whisper`); its only home.

It is OpenAI's code (Radford et al. 2022, appendix C): lower case, spelling made American, contractions opened, numbers
written as digits, fillers and what stands in brackets dropped. It rewrites words, so error rates under it are far
from others.
"""

import functools
from collections.abc import Callable

from asr_kd.errors import MissingExtraError

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
