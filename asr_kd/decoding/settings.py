"""Settings of decoding, reading them from a file, and the rules by which an utterance of a stream has ended.

The endpoint rules are the three of sherpa-onnx 2.0.1 (`endpoint.cc`), which follow Kaldi's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from asr_kd.config import Settings, UserPath, load_yaml, parse_settings

LARGEST_WEIGHT = 20
"""Largest LM weight, and largest word score of either sign."""
DEFAULT_LM_WEIGHT = 1.0
"""Weight of a language model that was not tuned; log10, as in KenLM and torchaudio."""


class DecodingSettings(Settings):
    """How posteriors become text: greedy, or prefix beam search with a language model, a lexicon and hotwords."""

    kind: Literal["greedy", "beam"] = "greedy"
    """Best path, or prefix beam search (extra `lm`), to which all further settings belong."""
    lm: UserPath | None = None
    """KenLM n-gram, ARPA (may be .gz) or binary: over words with a lexicon, over tokens without one. beam only."""
    lexicon: UserPath | None = None
    """Allowed words: the first column of each line (LibriSpeech's lexicon, torchaudio's, a list of words; may be .gz),
    spelled by the vocabulary. beam only."""
    lm_weight: float | None = Field(None, ge=0, le=LARGEST_WEIGHT)
    """Weight of the LM's log10 probabilities; None: as tuned by `asr-kd tune`, else 1."""
    word_score: float | None = Field(None, ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)
    """Added for each word (without a lexicon: for each frame of a word separator), nats; None: as tuned, else 0."""
    hotwords: tuple[str, ...] = ()
    """Words and phrases to prefer, written as the transcripts are. beam only."""
    hotword_score: float = Field(5.0, ge=0, le=50)
    """Added for each hotword that is decoded, nats, in equal parts from its first character on."""
    beam_size: int = Field(25, ge=1, le=10_000)
    """Prefixes that are kept."""
    beam_threshold: float = Field(10.0, gt=0, le=1_000)
    """Prefixes this much less likely than the best are dropped, nats."""
    beam_tokens: int = Field(10, ge=1, le=100_000)
    """Most likely tokens of a frame that prefixes are extended with."""
    sure_blank: float = Field(0.995, ge=0.5, le=1)
    """Of neighbouring frames whose blank is likelier than this, the search reads the first only; 1: it reads all."""
    nbest: int = Field(1, ge=1, le=10_000)
    """Hypotheses that are kept."""

    @field_validator("hotwords")
    @classmethod
    def _check_hotwords(cls, hotwords: tuple[str, ...]) -> tuple[str, ...]:
        if any(not phrase.split() for phrase in hotwords):
            raise ValueError("an empty hotword")
        return hotwords

    @model_validator(mode="after")
    def _check_kind(self) -> "DecodingSettings":
        given = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        if self.kind == "greedy" and given:
            raise ValueError(f"{', '.join(given)} {'needs' if len(given) == 1 else 'need'} kind: beam")
        return self

    @property
    def is_tunable(self) -> bool:
        return self.kind == "beam" and (self.lm is not None or self.lexicon is not None)


GREEDY = DecodingSettings()


def read_decoding(path: Path | None, hotwords: Sequence[str] = ()) -> DecodingSettings:
    """Read settings from a YAML or JSON file, at its top level or under `decoding` as `asr-kd tune` writes them.

    Without a file they are greedy. `hotwords` are further words to prefer; they turn greedy into a beam search.

    Raises:
        RecipeError: not such a file.
    """
    plain = {} if path is None else load_yaml(path)
    plain = plain.get("decoding", plain)
    given = plain.get("hotwords", []) if isinstance(plain, dict) else None
    if hotwords and isinstance(given, list):  # what else stands there is refused below
        plain = {**plain, "kind": "beam", "hotwords": [*given, *hotwords]}
    return parse_settings(DecodingSettings, plain, path or "--hotword")


FRAME_SHIFT_SECONDS = np.float32(0.04)
"""Duration of a decoded frame; the client computes in float32, and so do the rules here."""


class EndpointSettings(Settings):
    """The three rules; an utterance ends when one of them applies. Defaults are those of sherpa-onnx."""

    rule1_min_trailing_silence: float = Field(2.4, ge=0)
    """Seconds of silence that end an utterance without any token."""
    rule2_min_trailing_silence: float = Field(1.2, ge=0)
    """Seconds of silence that end an utterance with a token."""
    rule3_min_utterance_length: float = Field(20.0, ge=0)
    """Seconds after which an utterance ends in any case."""


def activated_rule(settings: EndpointSettings, num_frames: int, trailing_blanks: int) -> int | None:
    """Return the first rule, 1 to 3, that ends an utterance; None when it continues.

    Args:
        num_frames: decoded frames of 40 ms, silence included.
        trailing_blanks: frames since the last frame that was not blank.
    """
    utterance, silence = (np.float32(frames) * FRAME_SHIFT_SECONDS for frames in (num_frames, trailing_blanks))
    applies = (
        silence >= np.float32(settings.rule1_min_trailing_silence),
        silence >= np.float32(settings.rule2_min_trailing_silence) and utterance > silence,
        utterance >= np.float32(settings.rule3_min_utterance_length),
    )
    return next((number for number, holds in enumerate(applies, start=1) if holds), None)
