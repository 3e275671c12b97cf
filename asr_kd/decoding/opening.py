"""Settings into a decoder, and settings from a file."""

from collections.abc import Sequence
from pathlib import Path

from asr_kd.config import load_yaml, parse_settings
from asr_kd.decoding.beam import BeamSearch
from asr_kd.decoding.greedy import GreedyDecoder
from asr_kd.decoding.hypothesis import Decoder
from asr_kd.decoding.settings import DecodingSettings
from asr_kd.text.vocabulary import Vocabulary

GREEDY = DecodingSettings()


def open_decoder(vocabulary: Vocabulary, settings: DecodingSettings = GREEDY) -> Decoder:
    """What `settings` describe, for posteriors over `vocabulary`.

    Raises:
        LanguageModelError: the LM or lexicon cannot be read, or does not fit the vocabulary.
        MissingExtraError: a beam, without flashlight-text.
    """
    return GreedyDecoder(vocabulary.blank_id) if settings.kind == "greedy" else BeamSearch(vocabulary, settings)


def read_decoding(path: Path | None, hotwords: Sequence[str] = ()) -> DecodingSettings:
    """Settings from a file (YAML or JSON): theirs alone, or under `decoding` as `asr-kd tune` writes them.

    Args:
        path: the file; None is greedy.
        hotwords: to prefer besides; they make a beam of what is greedy.

    Raises:
        RecipeError: not such a file.
    """
    plain = {} if path is None else load_yaml(path)
    plain = plain.get("decoding", plain)
    if hotwords:
        plain = {**plain, "kind": "beam", "hotwords": [*plain.get("hotwords", ()), *hotwords]}
    return parse_settings(DecodingSettings, plain, path or "--hotword")
