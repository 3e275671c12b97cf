"""Models that compute log-probabilities of features: the interface, the torch model, and the padding of utterances.

Streams, masked passes over whole utterances and the parity check all pad by `padded_num_samples`, so their results are
equal.

Shapes: B utterances, N streams, T feature frames, C chunk frames, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from asr_kd.errors import CheckpointError
from asr_kd.features.fbank import FRAME_SHIFT_SAMPLES, SAMPLE_RATE, num_frames
from asr_kd.models.acoustic_model import EncoderOutput, StreamState
from asr_kd.models.layers import FACTOR, feature_frames_for, output_lens
from asr_kd.models.settings import Context
from asr_kd.models.weights import Model

State = TypeVar("State")

SHORTEST_FEATURES = feature_frames_for(1)
"""Feature frames below which the two unpadded convolutions give no output."""

MASKED_LOG_PROB = -1e4
"""Log-probability of a token that is never output; finite, so that differences are numbers."""

DEFAULT_TAIL_MS = 320
"""Silence after an utterance in which a CTC student, which emits late, finishes its last word."""

CACHE_BATCH_AXES = (1, 1, 0)
"""Of the keys, values and convolution inputs of a `StreamState`."""


class Backend(Protocol[State]):
    """A model in any runtime. Its state is opaque to callers."""

    @property
    def context(self) -> Context | None:
        """Chunk, left and right context of a streaming model, None for full context."""

    def log_probs(self, features: Tensor, feature_lens: Tensor) -> EncoderOutput:
        """Whole utterances, [B, T, 80] and [B] → log-probabilities [B, T', V] with their lengths."""

    def initial_state(self, streams: int) -> State:
        """State of so many streams without history."""

    def step(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """One chunk and its right context, [N, 4 (C + R) + 3, 80] → log-probabilities [N, C, V] and the state after."""

    def join(self, states: Sequence[State]) -> State:
        """Join the states of several streams, each at its own position, into that of a batch."""

    def split(self, state: State) -> list[State]:
        """Split the state of a batch into that of each stream: the inverse of `join`."""


class TorchBackend:
    """A torch model in evaluation mode, on the device of its weights. Results are float32 on the CPU.

    The token ids `unprintable` are never output.
    """

    def __init__(self, model: Model, unprintable: Sequence[int] = ()) -> None:
        self.model, self.unprintable = model.eval(), list(unprintable)

    @property
    def context(self) -> Context | None:
        streaming = self.model.settings.streaming
        return streaming.context if streaming else None

    @torch.inference_mode()
    def log_probs(self, features: Tensor, feature_lens: Tensor) -> EncoderOutput:
        """One masked pass over whole utterances, padded as by `padded_num_samples` for a chunked model.

        For a chunked model it equals the streamed result.
        """
        device = self.model.mean.device
        missing = max(SHORTEST_FEATURES - features.shape[1], 0)
        features = torch.nn.functional.pad(features, (0, 0, 0, missing))
        output = self.model(features.to(device), feature_lens.to(device))
        log_probs = mask_tokens(output.log_probs, self.unprintable).cpu()
        ahead = self.context.right_context_frames if self.context is not None else 0
        return EncoderOutput(log_probs[:, : log_probs.shape[1] - ahead], (output.lens.cpu() - ahead).clamp_min(0))

    def initial_state(self, streams: int) -> StreamState:
        return self.model.initial_state(streams)

    @torch.inference_mode()
    def step(self, features: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        log_probs, state = self.model.stream_step(features.to(self.model.mean.device), state)
        return mask_tokens(log_probs, self.unprintable).cpu(), state

    def join(self, states: Sequence[StreamState]) -> StreamState:
        keys, values, convs, processed = zip(*states, strict=True)

        def joined(caches: Sequence[list[Tensor]], dim: int) -> list[Tensor]:
            return [torch.cat(layer, dim) for layer in zip(*caches, strict=True)]

        key_axis, value_axis, conv_axis = CACHE_BATCH_AXES
        return StreamState(
            joined(keys, key_axis), joined(values, value_axis), joined(convs, conv_axis), torch.cat(processed)
        )

    def split(self, state: StreamState) -> list[StreamState]:
        """Split a state into copies, which do not keep the memory of the whole batch."""

        def of_stream(cache: list[Tensor], stream: int, dim: int) -> list[Tensor]:
            return [layer.narrow(dim, stream, 1).clone() for layer in cache]

        key_axis, value_axis, conv_axis = CACHE_BATCH_AXES
        return [
            StreamState(
                of_stream(state.keys, stream, key_axis),
                of_stream(state.values, stream, value_axis),
                of_stream(state.convs, stream, conv_axis),
                state.processed[stream : stream + 1].clone(),
            )
            for stream in range(len(state.processed))
        ]


def mask_tokens(log_probs: Tensor, token_ids: Sequence[int]) -> Tensor:
    """Set some tokens of [.., V] to `MASKED_LOG_PROB`; the others are not renormalised."""
    if not token_ids:
        return log_probs
    forbidden = torch.zeros(log_probs.shape[-1], dtype=torch.bool, device=log_probs.device)
    forbidden[list(token_ids)] = True
    return log_probs.masked_fill(forbidden, MASKED_LOG_PROB)


def check_numbers(log_probs: Tensor, name: str) -> None:
    """Refuse NaN, whose best path would be an arbitrary text.

    Raises:
        CheckpointError: there is a NaN; names the model.
    """
    if bool(log_probs.isnan().any()):
        raise CheckpointError(
            "gives log-probabilities that are not numbers",
            where=name,
            remedy="Its weights hold NaN or overflow: take an earlier checkpoint, or train again",
        )


def run_chunks(backend: Backend[State], features: Tensor, feature_lens: Tensor) -> EncoderOutput:
    """Run whole utterances, padded as by `padded_num_samples`, chunk by chunk, for backends without a masked pass.

    Utterances that end early continue with padding; those frames lie beyond their length.
    """
    if backend.context is None:
        raise ValueError("a full-context model cannot run in chunks")
    shift, window = backend.context.shift_feature_frames, backend.context.window_feature_frames
    ahead = backend.context.right_context_frames  # frames of the padding that are only read
    state = backend.initial_state(features.shape[0])
    outputs = []
    for start in range(0, features.shape[1] - window + 1, shift):
        chunk, state = backend.step(features[:, start : start + window], state)
        outputs.append(chunk)
    if not outputs:
        return EncoderOutput(torch.zeros(features.shape[0], 0, 1), torch.zeros_like(feature_lens))
    return EncoderOutput(torch.cat(outputs, dim=1), (output_lens(feature_lens) - ahead).clamp_min(0))


def num_chunks(num_samples: int, chunk_frames: int, tail_ms: int = DEFAULT_TAIL_MS) -> int:
    """Return the number of chunks of an utterance, its tail included; 0 for an empty one.

    Every feature frame of the audio and of the tail is among the 4·C frames by which a chunk advances, none only among
    those of its look-ahead.
    """
    if num_samples == 0:
        return 0
    frames = num_frames(num_samples + tail_ms * SAMPLE_RATE // 1000)
    return max(-(-frames // (FACTOR * chunk_frames)), 1)


def padded_num_samples(num_samples: int, context: Context, tail_ms: int = DEFAULT_TAIL_MS) -> int:
    """Return the samples of an utterance after padding: exactly `num_chunks` windows of 4·(C + R) + 3 feature frames.

    At least 30 ms are added, so that Kaldi's reflection at the end reads zeros only and features do not depend on
    whether more silence follows.
    """
    chunks = num_chunks(num_samples, context.chunk_frames, tail_ms)
    frames = context.chunk_frames * chunks + context.right_context_frames
    return FRAME_SHIFT_SAMPLES * feature_frames_for(frames) if chunks else 0
