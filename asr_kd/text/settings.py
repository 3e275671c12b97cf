"""Settings of vocabularies, and building a vocabulary from them and transcripts."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from asr_kd.config import Settings, UserPath
from asr_kd.errors import VocabularyError
from asr_kd.files import sha256_of_file
from asr_kd.text.bpe import MODEL
from asr_kd.text.kneser_ney import read_sentences
from asr_kd.text.normalize import Normalizer, letters_beyond_english, normalize
from asr_kd.text.vocabulary import Vocabulary

TOKENS = "tokens.txt"

_log = logging.getLogger(__name__)


class VocabularySettings(Settings):
    """The tokens of the models."""

    kind: Literal["characters", "bpe", "file"] = "characters"
    """Characters of the training transcripts, subwords learned from them, or an existing vocabulary."""
    normalizer: Normalizer = "librispeech"
    """Applied to transcripts before training and, to both sides, before scoring; `unicode` for all scripts."""
    size: int | None = Field(default=None, ge=3, le=65_536)
    """`bpe`: symbols in all, the blank included; 500 suits a thousand hours of English, 100 to 200 a few hours, and 256
    or 512 a few hours on an encoder of Whisper."""
    text: UserPath | None = None
    """`bpe`: a file that the subwords are learned from instead of the transcripts, where these are few or missing: what
    `asr-kd lm build` reads."""
    alphabet: str | None = None
    """`characters`: the letters themselves, for a corpus without transcripts ("ABC…Z'"); white space is ignored."""
    path: UserPath | None = None
    """`file`: a tokens.txt, with its bpe.model beside it where it has subwords, or the folder of a model or bundle."""

    @model_validator(mode="after")
    def _check_kind(self) -> "VocabularySettings":
        owner = {"size": "bpe", "text": "bpe", "alphabet": "characters", "path": "file"}
        given = [key for key in owner if getattr(self, key) is not None]
        wrong = [key for key in given if owner[key] != self.kind]
        if wrong:
            raise ValueError(f"{wrong[0]} belongs to kind: {owner[wrong[0]]}, this is kind: {self.kind}")
        needed = {"bpe": "size", "file": "path"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"kind: {self.kind} needs {needed}")
        inside = {c: f"1{c}1" for c in self.alphabet or "" if not c.isspace()}
        strange = sorted(c for c, text in inside.items() if normalize(text, self.normalizer) != text)
        if strange:
            raise ValueError(f"alphabet: normalizer {self.normalizer} never writes {' '.join(strange)}")
        if self.alphabet is not None and not self.alphabet.strip():
            raise ValueError("alphabet: holds no character")
        return self

    @property
    def needs_transcripts(self) -> bool:
        """Whether the tokens come from the transcripts."""
        return self.alphabet is None and self.path is None and self.text is None

    @property
    def tokens_path(self) -> Path | None:
        """The tokens.txt of `kind: file`."""
        if self.path is None or not self.path.is_dir():
            return self.path
        return self.path / TOKENS


def build_vocabulary(settings: VocabularySettings, texts: Iterable[str]) -> Vocabulary:
    """Build or load the vocabulary of settings.

    Letters of another script under the English normalizer are logged as a warning.

    Raises:
        VocabularyError: the file is not a vocabulary, or the transcripts do not give one (none, reserved characters,
            too few subwords).
        LanguageModelError: the text cannot be read.
    """
    if settings.tokens_path is not None:
        return Vocabulary.load(settings.tokens_path)
    if settings.alphabet:
        texts = [settings.alphabet]
    else:
        texts = list(texts if settings.text is None else read_sentences(settings.text, settings.normalizer))
    beyond = letters_beyond_english(texts) if settings.normalizer == "librispeech" else ""
    if beyond:
        _log.warning(
            "vocabulary.normalizer: librispeech is for English, the transcripts hold %s. Set vocabulary.normalizer and "
            "evaluate.normalizer to unicode, which is for all scripts",
            " ".join(beyond[:20]),
        )
    normalized = texts if settings.alphabet else [normalize(text, settings.normalizer) for text in texts]
    if settings.size is not None:
        return Vocabulary.subwords(normalized, settings.size)
    vocabulary = Vocabulary.characters(normalized)
    if not any(text.strip() for text in normalized):
        raise VocabularyError(
            "there are no transcripts to take characters from",
            where="vocabulary",
            remedy="Name them (vocabulary.alphabet), or use an existing vocabulary (vocabulary.kind: file)",
        )
    return vocabulary


def vocabulary_fingerprint(settings: VocabularySettings) -> list[str]:
    """Return hashes of the files that the settings name, for cache keys; often none.

    Raises:
        VocabularyError: there is no such file.
    """
    if settings.text is not None:
        if not settings.text.is_file():
            raise VocabularyError(
                "no such file", where=settings.text, expected="text, plain or .gz", remedy="Correct vocabulary.text"
            )
        return [sha256_of_file(settings.text)]
    tokens = settings.tokens_path
    if tokens is None:
        return []
    if not tokens.is_file():
        raise VocabularyError("no such file", where=tokens, expected="a tokens.txt", remedy="Correct vocabulary.path")
    paths = [tokens, tokens.with_name(MODEL)]
    return [sha256_of_file(path) for path in paths if path.is_file()]
