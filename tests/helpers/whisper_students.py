"""Small random streaming Whisper encoders."""

import torch

from asr_kd.models.settings import Streaming, WhisperSettings, WhisperSizes
from asr_kd.models.whisper import StreamingWhisper
from tests.helpers.tiny_models import SHARPNESS, VOCABULARY

SIZES = WhisperSizes(width=32, heads=2, feed_forward=48)
STREAMING = Streaming(chunk_frames=4, left_context_frames=8)


def whisper_student(
    seed: int = 0, vocabulary=VOCABULARY, streaming: Streaming | None = STREAMING, **changed
) -> StreamingWhisper:
    """Two layers of width 32, whose added convolutions are not zero."""
    settings = WhisperSettings(
        **{"init": "hf:openai/none", "layers": (0, 1), "kernel": 5, "sizes": SIZES, "streaming": streaming, **changed}
    )
    model = StreamingWhisper(settings, len(vocabulary)).eval()
    model.set_normalisation(torch.full((80,), -7.0), torch.full((80,), 3.0))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5, generator=generator)
            elif name.endswith("bias"):
                weight.normal_(std=0.1, generator=generator)
        model.output.weight.mul_(SHARPNESS)
    return model
