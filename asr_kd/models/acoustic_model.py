"""Base of the acoustic models: features in, CTC log-probabilities out, whole utterances or chunks on caches.

With full context a model may be a teacher; with chunks the same layers run masked over whole utterances (training,
evaluation) or chunk by chunk on explicit caches (streaming, export), to the same result.

Shapes: B utterances or N streams, T feature frames, T' = output_lens(T) encoder frames of 40 ms, D width, C chunk
frames, L left-context frames, R right-context frames, K convolution kernel, V vocabulary."""

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from asr_kd.features.fbank import NUM_MEL_BINS
from asr_kd.models.layers import Table, attention_mask, feature_frames_for, output_lens
from asr_kd.models.layout import Layout, layout_of
from asr_kd.models.settings import ConformerSettings, Context, WhisperSettings


class StreamState(NamedTuple):
    """Caches of a batch of streams; every stream may stand at its own position."""

    keys: list[Tensor]
    """Per layer: the last L projected keys, [L, N, D], oldest first; rotated only when used."""
    values: list[Tensor]
    """Per layer: the last L projected values, [L, N, D], oldest first."""
    convs: list[Tensor]
    """Per layer: the last K − 1 inputs of the depthwise convolution, [N, D, K − 1], oldest first."""
    processed: Tensor
    """Encoder frames each stream has been through, [N] int64; distinguishes history from zeros."""


FULL_CONTEXT = Context(1 << 20, 1 << 20)
"""Attention over the whole utterance: one chunk that holds any."""


Part = Literal["output", "layers", "adopted"]
"""Parts of a model: the output layer, what is below it, and of that what was taken from another project's model."""


class EncoderOutput(NamedTuple):
    """Results of a forward pass."""

    log_probs: Tensor  # [B, T', V] float32; rows past an utterance's length are undefined
    lens: Tensor  # [B] int64, encoder frames
    inner: tuple[Tensor, ...] = ()  # [B, T', V] each: the head on the requested inner layers
    layers: Mapping[int, Tensor] = {}  # layer, counted from 1 → [B, T', D]: the requested ones


class ModelLayer(nn.Module):
    """A layer that runs over whole utterances or over one chunk."""

    def fuse(self) -> None:
        """Combine what a graph need not compute apart, for export."""
        raise NotImplementedError

    def forward(self, hidden: Tensor, table: Table, mask: Tensor, layout: Layout) -> Tensor:
        """[B, P, D] → [B, P, D], P places of the layout."""
        raise NotImplementedError

    def step(
        self, hidden: Tensor, caches: tuple[Tensor, ...], table: Table, mask: Tensor, chunk: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """One chunk of every stream and its right context, [N · (C + R), D], and the layer's keys, values and
        convolution inputs after the chunk, which has `chunk` (C) frames.
        """
        raise NotImplementedError


class AcousticModel(nn.Module):
    """Log-mel features to CTC log-probabilities. A subclass has `layers` and `output` and embeds the features."""

    mean: Tensor
    inverse_std: Tensor
    layers: nn.ModuleList
    output: nn.Linear
    layer_drop: float = 0.0
    """Stochastic depth: how often the last layer is skipped for an utterance in training; not part of the model."""

    random_chunk_offset: bool = False
    """Whether the first chunk of an utterance is shorter in training by a random number of frames; not part of the
    model. An utterance then meets the ends of chunks at every place, as it does after any length of silence."""

    frozen: bool = False
    """Whether everything below the head is computed without gradients; not part of the model."""

    def __init__(self, settings: ConformerSettings | WhisperSettings, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self._shape = settings
        self.register_buffer("mean", torch.zeros(NUM_MEL_BINS))
        self.register_buffer("inverse_std", torch.ones(NUM_MEL_BINS))

    @property
    def num_parameters(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def set_normalisation(self, mean: Tensor, std: Tensor) -> None:
        """Put the training corpus' feature mean and standard deviation, [F] each, into the graph."""
        self.mean.copy_(mean)
        self.inverse_std.copy_(1.0 / std.clamp_min(1e-3))

    def forward(
        self,
        features: Tensor,
        feature_lens: Tensor,
        context: Context | None = None,
        inner_layers: Collection[int] = (),
        wanted_layers: Collection[int] = (),
    ) -> EncoderOutput:
        """Whole utterances: features [B, T, F] with lengths [B] int64, which may stay on the host.

        Where no utterance has an encoder frame, T' is 1, and the frame is padding.
        `context` None is full context, or the default chunk of a streaming model; with
        `FULL_CONTEXT` the attention of a streaming model sees everything too (its convolutions stay causal).
        `inner_layers` counts from 1; each also goes through the head. The outputs of `wanted_layers` are returned.
        """
        if context is None and self._shape.streaming is not None:
            context = self._shape.streaming.context
        hidden, lens, inner, layers = self._encode(features, feature_lens, context, inner_layers, wanted_layers)
        heads = tuple(self._log_probs(each) for each in inner)
        return EncoderOutput(self._log_probs(hidden), lens, heads, layers)

    def _encode(
        self,
        features: Tensor,
        feature_lens: Tensor,
        context: Context | None,
        inner_layers: Collection[int],
        wanted_layers: Collection[int],
    ) -> tuple[Tensor, Tensor, list[Tensor], dict[int, Tensor]]:
        """The last layer [B, T', D], lengths [B], the inner layers, and the wanted layers as they are returned."""
        missing = feature_frames_for(1) - features.shape[1]
        if missing > 0:  # the convolutions refuse input without a single output frame
            features = nn.functional.pad(features, (0, 0, 0, missing))
        with self._gradients(0):
            hidden = self._embed((features - self.mean) * self.inverse_std, None)
        lens = output_lens(feature_lens)
        offsets = self._chunk_offsets(len(hidden), context).to(hidden.device, non_blocking=True)
        layout = layout_of(lens.to(hidden.device, non_blocking=True), hidden.shape[1], context, offsets)
        hidden = layout.spread(hidden)
        # Padding frames look at themselves: a row without any key would be NaN, in the gradient too.
        itself = torch.eye(hidden.shape[1], dtype=torch.bool, device=hidden.device)
        mask = attention_mask((layout.allowed & layout.valid.unsqueeze(1) | itself).unsqueeze(1))
        table = layout.table(self._table(layout.positions, hidden.device))
        inner: list[Tensor] = []
        layers: dict[int, Tensor] = {}
        for number, layer in enumerate(self.layers, start=1):
            with self._gradients(number):
                deeper = layer(hidden, table, mask, layout)
                hidden = self._mix(hidden, deeper, number)
            if number in inner_layers:
                inner.append(layout.gather(hidden))
            if number in wanted_layers:
                layers[number] = self._layer_output(layout.gather(hidden), number)
        return layout.gather(hidden), lens, inner, layers

    @property
    def head_from(self) -> int:
        """Number of layers below the head, which is the output layer and what is trained with it."""
        return len(self.layers)

    def _gradients(self, number: int) -> torch.set_grad_enabled:
        """Context of layer `number`, 0 for what is below the first: without gradients while the model is frozen."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and not (self.frozen and number <= self.head_from))

    def part_of(self, parameter: str) -> Part:
        """The part that a parameter belongs to, by its name: parts may have learning rates of their own."""
        return "output" if parameter.startswith("output.") else "layers"

    def _chunk_offsets(self, utterances: int, context: Context | None) -> Tensor:
        """[B] int64: by how many frames the first chunk of each utterance is shorter."""
        if context is None or context == FULL_CONTEXT or not (self.training and self.random_chunk_offset):
            return torch.zeros(1, dtype=torch.int64)
        return torch.randint(context.chunk_frames, (utterances,))

    def _mix(self, hidden: Tensor, deeper: Tensor, number: int) -> Tensor:
        """The output of layer `number`, counted from 1, or in training perhaps its input, by utterance.

        Layer l of L is skipped with probability l/L · `layer_drop`; what it adds to the others is scaled, so that
        the mean is what it gives in evaluation (Huang et al. 2016; scaled as in dropout). All parameters have a
        gradient in every step.
        """
        if not self.training or self.layer_drop == 0.0:
            return deeper
        stays = 1.0 - self.layer_drop * number / len(self.layers)
        drawn = torch.rand(len(hidden), 1, 1, device=hidden.device) < stays
        return hidden + (deeper - hidden) * (drawn.to(hidden.dtype) / stays)

    def initial_state(self, streams: int, left_context_frames: int | None = None) -> StreamState:
        """A state without history for so many streams.

        Raises:
            ValueError: the model is not a streaming one.
        """
        if self._shape.streaming is None:
            raise ValueError("a full-context model has no streaming state; set model.streaming in its recipe")
        left = left_context_frames or self._shape.streaming.left_context_frames
        width, layers = self._shape.width, self._shape.num_layers

        def zeros(*shape: int) -> list[Tensor]:
            return [self.mean.new_zeros(*shape) for _ in range(layers)]

        return StreamState(
            keys=zeros(left, streams, width),
            values=zeros(left, streams, width),
            convs=zeros(streams, width, self._shape.kernel - 1),
            processed=torch.zeros(streams, dtype=torch.int64, device=self.mean.device),
        )

    def stream_step(
        self, features: Tensor, state: StreamState, right_context_frames: int | None = None
    ) -> tuple[Tensor, StreamState]:
        """One chunk: features [N, 4 (C + R) + 3, F], of which the next chunk repeats the last 4R + 3.

        `right_context_frames` is R, None: the model's own. Returns log-probabilities [N, C, V] and the state after
        them.
        """
        if right_context_frames is None:
            right_context_frames = self._shape.streaming.right_context_frames if self._shape.streaming else 0
        hidden = self._embed((features - self.mean) * self.inverse_std, state.processed)
        new, left = hidden.shape[1], state.keys[0].shape[0]
        chunk = new - right_context_frames
        # Frames of all streams as rows: runtimes then multiply and add the bias in one operation.
        hidden = hidden.flatten(0, 1)
        window = torch.arange(left + new, device=hidden.device)
        allowed = (window >= left - state.processed.unsqueeze(1)).unsqueeze(1).unsqueeze(1)
        mask = attention_mask(allowed)  # [N, 1, 1, L + C + R]
        table = self._step_table(left, new, hidden.device)
        caches = []
        for layer, *cache in zip(self.layers, state.keys, state.values, state.convs, strict=True):
            hidden, after = cast(ModelLayer, layer).step(hidden, tuple(cache), table, mask, chunk)
            caches.append(after)
        keys, values, convs = (list(part) for part in zip(*caches, strict=True))
        if chunk < new:
            hidden = hidden.unflatten(0, (-1, new))[:, :chunk].flatten(0, 1)
        log_probs = self._log_probs(hidden).unflatten(0, (-1, chunk))
        return log_probs, StreamState(keys, values, convs, state.processed + chunk)

    def _embed(self, normalised: Tensor, first: Tensor | None) -> Tensor:
        """Normalised features [B, T, F] to encoder frames [B, T', D].

        `first` [B] int64 is the number of each row's first frame in its stream; None for whole utterances.
        """
        raise NotImplementedError

    def _table(self, frames: int, device: torch.device) -> Table:
        """What the attention of whole utterances needs of positions."""
        return None

    def _step_table(self, left: int, new: int, device: torch.device) -> Table:
        """The same for a step of C + R frames."""
        return None

    def _layer_output(self, hidden: Tensor, number: int) -> Tensor:
        """The output of a layer, as it is returned."""
        return hidden

    def _log_probs(self, hidden: Tensor) -> Tensor:
        return self.output(hidden).float().log_softmax(dim=-1)
