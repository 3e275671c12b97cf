"""What can turn features into log-probabilities: the protocol, and the torch model behind it.

Shapes: B utterances, N streams, T feature frames, C chunk frames, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import CheckpointError
from asr_kd.models.conformer import Conformer, EncoderOutput
from asr_kd.models.settings import Context
from asr_kd.models.state import StreamState
from asr_kd.models.subsampling import FACTOR, feature_frames_for, output_lens

State = TypeVar("State")

SHORTEST_FEATURES = feature_frames_for(1)
"""Feature frames below which the two unpadded convolutions have nothing to give."""

NEVER = -1e4
"""Log-probability of a token that must not be written: finite, so that differences stay numbers."""


class Backend(Protocol[State]):
    """A model, wherever it runs. Its state is opaque to everyone else."""

    @property
    def context(self) -> Context | None:
        """Chunk and left context of a streaming model, None for one that needs the whole utterance."""

    def log_probs(self, features: Tensor, feature_lens: Tensor) -> EncoderOutput:
        """Whole utterances, [B, T, 80] and [B] → log-probabilities [B, T', V] with their lengths."""

    def initial_state(self, streams: int) -> State:
        """No history for so many streams."""

    def step(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """One chunk, [N, 4C + 3, 80] → log-probabilities [N, C, V] and the state after it.

        The state given may be used up: its arrays may be written over, and no other step can begin at it.
        """

    def join(self, states: Sequence[State]) -> State:
        """States of several streams, each at its own position, as that of one batch."""

    def split(self, state: State) -> list[State]:
        """The state of each stream of a batch: the inverse of `join`."""


class TorchBackend:
    """A model in this process, in evaluation mode, on the device where its weights are.

    Results come back on the CPU, in float32.

    Args:
        model: full context or chunked.
        unprintable: token ids that are never written.
    """

    def __init__(self, model: Conformer, unprintable: Sequence[int] = ()) -> None:
        self.model, self.unprintable = model.eval(), list(unprintable)

    @property
    def context(self) -> Context | None:
        """Chunk and left context of a streaming model."""
        streaming = self.model.settings.streaming
        return streaming.context if streaming else None

    @torch.inference_mode()
    def log_probs(self, features: Tensor, feature_lens: Tensor) -> EncoderOutput:
        """One masked pass over whole utterances; for a chunked model equal to its streamed result."""
        device = self.model.mean.device
        missing = max(SHORTEST_FEATURES - features.shape[1], 0)
        features = torch.nn.functional.pad(features, (0, 0, 0, missing))
        output = self.model(features.to(device), feature_lens.to(device))
        return EncoderOutput(mask_tokens(output.log_probs, self.unprintable).cpu(), output.lens.cpu())

    def initial_state(self, streams: int) -> StreamState:
        """No history."""
        return self.model.initial_state(streams)

    @torch.inference_mode()
    def step(self, features: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """One chunk of every stream."""
        log_probs, state = self.model.stream_step(features.to(self.model.mean.device), state)
        return mask_tokens(log_probs, self.unprintable).cpu(), state

    def join(self, states: Sequence[StreamState]) -> StreamState:
        """States of several streams as one batch."""
        keys, values, convs, processed = zip(*states, strict=True)
        return StreamState(
            [torch.cat(layer, dim=1) for layer in zip(*keys, strict=True)],
            [torch.cat(layer, dim=1) for layer in zip(*values, strict=True)],
            [torch.cat(layer, dim=0) for layer in zip(*convs, strict=True)],
            torch.cat(processed),
        )

    def split(self, state: StreamState) -> list[StreamState]:
        """The state of each stream: copies, so that one which stays behind does not keep the whole batch alive."""

        def one(tensor: Tensor, stream: int, dim: int) -> Tensor:
            return tensor.narrow(dim, stream, 1).clone()

        return [
            StreamState(
                [one(layer, stream, 1) for layer in state.keys],
                [one(layer, stream, 1) for layer in state.values],
                [one(layer, stream, 0) for layer in state.convs],
                one(state.processed, stream, 0),
            )
            for stream in range(len(state.processed))
        ]


def mask_tokens(log_probs: Tensor, token_ids: Sequence[int]) -> Tensor:
    """[.., V] with some tokens made impossible; the rest is not renormalised, so that nothing else moves."""
    if not token_ids:
        return log_probs
    forbidden = torch.zeros(log_probs.shape[-1], dtype=torch.bool, device=log_probs.device)
    forbidden[list(token_ids)] = True
    return log_probs.masked_fill(forbidden, NEVER)


def check_numbers(log_probs: Tensor, name: str) -> None:
    """Refuse NaN: its best path would be an arbitrary but plausible text.

    Raises:
        CheckpointError: names the model.
    """
    # One of them makes the sum one, which takes a fifth of the time of looking at each; by numpy, see `features.fbank`.
    if np.isnan(log_probs.numpy().sum()):
        raise CheckpointError(
            "gives log-probabilities that are not numbers",
            where=name,
            remedy="Its weights hold NaN or overflow: take an earlier checkpoint, or train again",
        )


def run_chunks(backend: Backend[State], features: Tensor, feature_lens: Tensor) -> EncoderOutput:
    """Whole utterances through the streaming path, all in step: what a backend without a masked pass does.

    Utterances that end early go on with the padding; those frames lie beyond their length.

    Args:
        backend: a streaming one.
        features: [B, T, 80] with T = 4·C·chunks + 3, or 0.
        feature_lens: [B], such lengths as `padded_num_samples` gives.
    """
    if backend.context is None:
        raise ValueError("a full-context model cannot run in chunks")
    chunk_frames = backend.context.chunk_frames
    shift, window = FACTOR * chunk_frames, feature_frames_for(chunk_frames)
    state = backend.initial_state(features.shape[0])
    outputs = []
    for start in range(0, features.shape[1] - window + 1, shift):
        chunk, state = backend.step(features[:, start : start + window], state)
        outputs.append(chunk)
    if not outputs:
        return EncoderOutput(torch.zeros(features.shape[0], 0, 1), torch.zeros_like(feature_lens))
    return EncoderOutput(torch.cat(outputs, dim=1), output_lens(feature_lens))
