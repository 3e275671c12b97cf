"""Settings of decoding. Knows nothing else."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from asr_kd.config import Settings

DEFAULT_LM_WEIGHT = 1.0
"""Of a language model that was never tuned; log10, as KenLM and torchaudio count."""


class DecodingSettings(Settings):
    """How posteriors become text: greedy, or prefix beam search with a language model, a lexicon and hotwords."""

    kind: Literal["greedy", "beam"] = "greedy"
    """Best path, or prefix beam search (extra `lm`)."""
    """The likeliest token of each frame, or a search over prefixes; what follows is read by the search alone."""
    lm: Path | None = None
    """KenLM n-gram, ARPA (may be .gz) or binary: over words with a lexicon, over tokens without one. beam only."""
    lexicon: Path | None = None
    """Words that may be said: the first column of each line (LibriSpeech's lexicon, torchaudio's, a list of words; may
    be .gz). The vocabulary spells them."""
    lm_weight: float | None = Field(None, ge=0, le=20)
    """Weight of the LM's log10 probabilities; None: as `asr-kd tune` found for the system, else 1."""
    word_score: float | None = Field(None, ge=-20, le=20)
    """Added for each word (without a lexicon: for each frame of a word separator), nats; None: as tuned, else 0."""
    hotwords: tuple[str, ...] = ()
    """Words and phrases to prefer, spelled as the vocabulary writes them. beam only."""
    hotword_score: float = Field(5.0, ge=0, le=50)
    """Added for each hotword that is said, nats; a part of it as soon as its beginning is."""
    beam_size: int = Field(25, ge=1, le=10_000)
    """Prefixes that are followed."""
    beam_threshold: float = Field(10.0, gt=0, le=1_000)
    """Prefixes this much less likely than the best are dropped, nats."""
    beam_tokens: int = Field(10, ge=1, le=100_000)
    """Most likely tokens of a frame that the search goes on with."""
    sure_blank: float = Field(0.995, ge=0.5, le=1)
    """Of neighbouring frames whose blank is likelier than this, the search hears the first only; 1: it hears all."""
    nbest: int = Field(1, ge=1, le=10_000)
    """Hypotheses that are kept."""

    @field_validator("lm", "lexicon")
    @classmethod
    def _home_is_known(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser()

    @field_validator("hotwords")
    @classmethod
    def _hotwords_are_words(cls, hotwords: tuple[str, ...]) -> tuple[str, ...]:
        if any(not phrase.split() for phrase in hotwords):
            raise ValueError("an empty hotword")
        return hotwords

    @model_validator(mode="after")
    def _beam_settings_need_a_beam(self) -> "DecodingSettings":
        if self.kind == "greedy":
            for name in ("lm", "lexicon", "hotwords"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs kind: beam")
        return self

    @property
    def is_tunable(self) -> bool:
        """Whether `asr-kd tune` has something to find."""
        return self.kind == "beam" and (self.lm is not None or self.lexicon is not None)
