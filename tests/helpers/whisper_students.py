"""Small random streaming Whisper encoders."""

from asr_kd.models.settings import Streaming, WhisperSettings, WhisperSizes
from asr_kd.models.whisper import StreamingWhisper
from tests.helpers.tiny_models import VOCABULARY, with_drawn_weights

SIZES = WhisperSizes(width=32, heads=2, feed_forward=48)
STREAMING = Streaming(chunk_frames=4, left_context_frames=8)


def whisper_student(
    seed: int = 0, vocabulary=VOCABULARY, streaming: Streaming | None = STREAMING, **changed
) -> StreamingWhisper:
    """Two layers of width 32, whose added convolutions are not zero."""
    settings = WhisperSettings(
        **{"init": "hf:openai/none", "layers": (0, 1), "kernel": 5, "sizes": SIZES, "streaming": streaming, **changed}
    )
    return with_drawn_weights(StreamingWhisper(settings, len(vocabulary)).eval(), seed)
