"""Small encoders of every architecture, and their outputs in one pass and step by step."""

import torch

from asr_kd.models.acoustic_model import StreamState
from asr_kd.models.conformer import Conformer
from asr_kd.models.layers import feature_frames_for
from asr_kd.models.settings import CausalHead, ConformerSettings, Context, Streaming
from asr_kd.models.weights import Model
from tests.helpers.whisper_students import whisper_student

SMALL = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 32, "kernel": 5, "subsampling_channels": 4}
"""Sizes of a Conformer."""
HEAD = CausalHead(blocks=2, width=24, kernel=4)
WHISPERS = {
    "whisper": {},
    "factored whisper": {"feed_forward_rank": 5, "head": CausalHead(blocks=1, width=8, kernel=1)},
    "whisper with a head": {"head": HEAD},
}
ARCHITECTURES = ("conformer", *WHISPERS)


def small_encoder(
    architecture: str = "conformer", chunk: int | None = 4, left: int = 6, right: int = 0, seed: int = 0, **changed
) -> Model:
    """Two random layers of width 32, in evaluation mode; full context where `chunk` is None."""
    context = {"chunk_frames": chunk, "left_context_frames": left, "right_context_frames": right}
    streaming = Streaming(**context) if chunk else None
    if architecture != "conformer":
        return whisper_student(seed=seed, streaming=streaming, **WHISPERS[architecture], **changed)
    torch.manual_seed(seed)
    model = Conformer(ConformerSettings(**SMALL, streaming=streaming, **changed), vocab_size=11).eval()
    model.set_normalisation(torch.full((80,), -5.0), torch.full((80,), 2.0))
    return model


def features(frames: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Random log mel features, [B, T, 80]."""
    return torch.randn(batch, frames, 80, generator=torch.Generator().manual_seed(seed)) * 2 - 5


@torch.no_grad()
def stream(
    model: Model, inputs: torch.Tensor, chunk: int, left: int, right: int = 0, state: StreamState | None = None
) -> torch.Tensor:
    """Log-posteriors of the whole chunks of `inputs`, step by step."""
    state, outputs = state or model.initial_state(inputs.shape[0], left), []
    window = feature_frames_for(chunk + right)
    for begin in range(0, inputs.shape[1] - window + 1, 4 * chunk):
        log_probs, state = model.stream_step(inputs[:, begin : begin + window], state, right)
        outputs.append(log_probs)
    return torch.cat(outputs, dim=1)


@torch.no_grad()
def offline(model: Model, inputs: torch.Tensor, context: Context | None = None) -> torch.Tensor:
    """Log-posteriors in one pass."""
    return model(inputs, torch.full((inputs.shape[0],), inputs.shape[1]), context).log_probs
