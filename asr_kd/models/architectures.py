"""Architectures of acoustic models: settings, and the class that each builds."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from asr_kd.config import Settings
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings
from asr_kd.models.whisper import StreamingWhisper
from asr_kd.models.whisper_settings import WhisperSettings


def _architecture(value: Any) -> str:
    if isinstance(value, dict):
        return WhisperSettings.tag if "init" in value else ConformerSettings.tag
    return str(getattr(value, "tag", ConformerSettings.tag))


ModelSettings = Annotated[
    Annotated[ConformerSettings, Tag(ConformerSettings.tag)] | Annotated[WhisperSettings, Tag(WhisperSettings.tag)],
    Discriminator(_architecture),
]
"""Settings of a model: of a Whisper with an `init`, else of a Conformer."""

Model = Conformer | StreamingWhisper


class ModelDescription(Settings):
    """Wrapper through which settings of either kind are parsed."""

    model: ModelSettings


def build_model(settings: ConformerSettings | WhisperSettings, vocab_size: int) -> Model:
    """Build a model with random weights.

    Raises:
        ValueError: settings of a Whisper whose sizes are not read yet.
    """
    if isinstance(settings, WhisperSettings):
        return StreamingWhisper(settings, vocab_size)
    return Conformer(settings, vocab_size)
