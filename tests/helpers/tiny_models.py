"""Small random models whose transcripts are not empty, and audio for them."""

from pathlib import Path

import torch

from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings, Streaming
from asr_kd.models.weights import Model, save_model
from asr_kd.text.vocabulary import Vocabulary

CHUNK_FRAMES, LEFT_CONTEXT_FRAMES = 4, 8
VOCABULARY = Vocabulary(("<blk>", "A", "B", "▁", *"CDEFGHIJK"))
"""The word separator stands where the model below often goes."""

SEED = 3
SHARPNESS = 4.0
"""Factor of the output layer: a random model is nearly uniform, and its best path would hang on the last bit."""


def tiny_model(
    streaming: bool = True, seed: int = SEED, vocabulary: Vocabulary = VOCABULARY, chunk_frames: int = CHUNK_FRAMES
) -> Conformer:
    """Two layers of width 32, whose random transcripts have several tokens a second."""
    settings = ConformerSettings(
        width=32,
        layers=2,
        heads=2,
        feed_forward=32,
        kernel=5,
        subsampling_channels=4,
        streaming=Streaming(chunk_frames=chunk_frames, left_context_frames=LEFT_CONTEXT_FRAMES) if streaming else None,
    )
    return with_drawn_weights(Conformer(settings, len(vocabulary)).eval(), seed)


def with_drawn_weights(model: Model, seed: int) -> Model:
    """Normalisation and weights by a rule of the tests, which no change of the models' initialisation alters."""
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


def save_tiny_model(folder: Path, **options) -> Path:
    """A model folder."""
    vocabulary = options.get("vocabulary", VOCABULARY)
    save_model(folder, tiny_model(**options), vocabulary, {"note": "random weights, for tests"})
    return folder


def noise_speech(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise that swells, moves in colour and pauses like speech, [S] float32."""
    generator = torch.Generator().manual_seed(seed)
    samples = round(seconds * 16_000)
    noise = torch.randn(samples, generator=generator)
    coloured = noise + 0.9 * noise.roll(1 + seed % 3)
    time = torch.arange(samples) / 16_000
    loudness = (torch.sin(2 * torch.pi * 2.7 * time + seed).clamp_min(0) ** 2) * torch.exp(torch.sin(time * 5 + seed))
    tone = torch.sin(2 * torch.pi * (200 + 150 * torch.sin(3 * time)) * time)
    return (0.05 * loudness * (coloured + 2 * tone)).clamp(-1, 1)
