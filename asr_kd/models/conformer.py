"""Conformer–CTC (Gulati et al. 2020): one definition for teacher and student.

With full context it is the teacher; with chunks the same layers run masked over whole utterances (training,
evaluation) or chunk by chunk on explicit caches (streaming, export), to the same result. Knows features and
a vocabulary's size, nothing of files or training.

Shapes: B utterances or N streams, T feature frames, T' = output_lens(T) encoder frames of 40 ms, D width,
C chunk frames, L left-context frames, V vocabulary.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from asr_kd.features.fbank import NUM_MEL_BINS
from asr_kd.models.attention import RelativeSelfAttention, attention_mask, rotary_table, step_table
from asr_kd.models.convolution import ConvolutionModule
from asr_kd.models.dropout import Dropout
from asr_kd.models.settings import ConformerSettings, Context
from asr_kd.models.state import StreamState
from asr_kd.models.subsampling import Subsampling, output_lens

FULL_CONTEXT = Context(1 << 20, 1 << 20)
"""Attention over the whole utterance: one chunk that holds any."""


class EncoderOutput(NamedTuple):
    """What a forward pass gives."""

    log_probs: Tensor  # [B, T', V] float32; rows past an utterance's length mean nothing
    lens: Tensor  # [B] int64, encoder frames
    inner: tuple[Tensor, ...] = ()  # [B, T', V] each: what the head says of the inner layers asked for
    layers: Mapping[int, Tensor] = {}  # layer, counted from 1 → [B, T', D]: those asked for


class FeedForward(nn.Sequential):
    """D → wider → D."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, inner), nn.SiLU(), Dropout(dropout), nn.Linear(inner, width)
        )


class ConformerLayer(nn.Module):
    """½ feed-forward, attention, convolution, ½ feed-forward, LayerNorm; residual throughout."""

    def __init__(self, settings: ConformerSettings) -> None:
        super().__init__()
        width = settings.width
        self.feed_forward_in = FeedForward(width, settings.feed_forward, settings.dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = RelativeSelfAttention(width, settings.heads)
        self.convolution_norm = nn.LayerNorm(width)
        self.convolution = ConvolutionModule(width, settings.kernel, causal=settings.streaming is not None)
        self.feed_forward_out = FeedForward(width, settings.feed_forward, settings.dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(settings.dropout)
        self.halved = False

    def fuse(self) -> None:
        """Put together what a graph need not do apart, for export: three projections, and halves into the weights."""
        self.attention.fuse()
        for module in (self.feed_forward_in, self.feed_forward_out):
            last = cast(nn.Linear, module[-1])
            last.weight, last.bias = nn.Parameter(0.5 * last.weight), nn.Parameter(0.5 * last.bias)  # exact
        self.halved = True

    def forward(self, hidden: Tensor, table: tuple[Tensor, Tensor], mask: Tensor, valid: Tensor) -> Tensor:
        hidden = torch.add(hidden, self.dropout(self.feed_forward_in(hidden)), alpha=0.5)
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), table, mask))
        hidden = hidden + self.dropout(self.convolution(self.convolution_norm(hidden), valid))
        hidden = torch.add(hidden, self.dropout(self.feed_forward_out(hidden)), alpha=0.5)
        return self.norm(hidden)

    def step(
        self,
        hidden: Tensor,
        caches: tuple[Tensor, ...],
        table: tuple[Tensor, Tensor],
        mask: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, conv = caches
        half = 1.0 if self.halved else 0.5
        hidden = torch.add(hidden, self.feed_forward_in(hidden), alpha=half)
        mixed, keys, values = self.attention.step(self.attention_norm(hidden), keys, values, table, mask)
        hidden = hidden + mixed
        mixed, conv = self.convolution.step(self.convolution_norm(hidden), conv)
        hidden = hidden + mixed
        hidden = torch.add(hidden, self.feed_forward_out(hidden), alpha=half)
        return self.norm(hidden), (keys, values, conv)


class Conformer(nn.Module):
    """Log-mel features to CTC log-probabilities."""

    mean: Tensor
    inverse_std: Tensor
    layer_drop: float = 0.0
    """Stochastic depth: how often the last layer passes an utterance by in training; not part of the model."""

    def __init__(self, settings: ConformerSettings, vocab_size: int) -> None:
        super().__init__()
        self.settings, self.vocab_size = settings, vocab_size
        self.register_buffer("mean", torch.zeros(NUM_MEL_BINS))
        self.register_buffer("inverse_std", torch.ones(NUM_MEL_BINS))
        self.subsampling = Subsampling(NUM_MEL_BINS, settings.subsampling_channels, settings.width)
        self.dropout = Dropout(settings.dropout)
        layers = [ConformerLayer(settings) for _ in range(settings.layers)]
        self.layers = nn.ModuleList(layers)
        self.output = nn.Linear(settings.width, vocab_size)
        self.apply(_initialise)

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

        `context` None means what the settings say: full context, or the default chunk of a streaming model; with
        `FULL_CONTEXT` the attention of a streaming model sees everything too (its convolutions stay causal).
        `inner_layers` counts from 1; each also goes through the head. The outputs of `wanted_layers` are handed out.
        """
        if context is None and self.settings.streaming is not None:
            context = self.settings.streaming.context
        hidden = self.dropout(self.subsampling((features - self.mean) * self.inverse_std))
        lens = output_lens(feature_lens)
        frames = hidden.shape[1]
        counts = lens.to(hidden.device, non_blocking=True)
        valid = torch.arange(frames, device=hidden.device) < counts.unsqueeze(1)  # [B, T']
        allowed = _visible(frames, context, hidden.device) & valid.unsqueeze(1)
        # Padding frames look at themselves: a row without any key would be NaN, in the gradient too.
        mask = attention_mask((allowed | torch.eye(frames, dtype=torch.bool, device=hidden.device)).unsqueeze(1))
        heard = valid.unsqueeze(-1).to(hidden.dtype)
        table = rotary_table(frames, self.settings.width // self.settings.heads, hidden.device)
        inner, layers = [], {}
        for number, layer in enumerate(self.layers, start=1):
            deeper = layer(hidden, table, mask, heard)
            hidden = self._mix(hidden, deeper, number)
            if number in inner_layers:
                inner.append(self._log_probs(hidden))
            if number in wanted_layers:
                layers[number] = hidden
        return EncoderOutput(self._log_probs(hidden), lens, tuple(inner), layers)

    def _mix(self, hidden: Tensor, deeper: Tensor, number: int) -> Tensor:
        """What comes of layer `number`, counted from 1: its output, or in training maybe its input, by utterance.

        Layer l of L is passed by with probability l/L · `layer_drop`; what it adds to the others is scaled, so that
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
        if self.settings.streaming is None:
            raise ValueError("a full-context model has no streaming state; set model.streaming in its recipe")
        left = left_context_frames or self.settings.streaming.left_context_frames
        width, layers = self.settings.width, self.settings.layers

        def zeros(*shape: int) -> list[Tensor]:
            return [self.mean.new_zeros(*shape) for _ in range(layers)]

        return StreamState(
            keys=zeros(left, streams, width),
            values=zeros(left, streams, width),
            convs=zeros(streams, width, self.settings.kernel - 1),
            processed=torch.zeros(streams, dtype=torch.int64, device=self.mean.device),
        )

    def stream_step(self, features: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """One chunk: features [N, 4C + 3, F], of which the next chunk repeats the last 3.

        Returns log-probabilities [N, C, V] and the state after them.
        """
        hidden = self.subsampling((features - self.mean) * self.inverse_std)
        chunk, left = hidden.shape[1], state.keys[0].shape[0]
        # Frames of all streams as rows: runtimes then multiply and add the bias in one operation.
        hidden = hidden.flatten(0, 1)
        window = torch.arange(left + chunk, device=hidden.device)
        allowed = (window >= left - state.processed.unsqueeze(1)).unsqueeze(1).unsqueeze(1)
        mask = attention_mask(allowed)  # [N, 1, 1, L + C]
        table = step_table(left, chunk, self.settings.width // self.settings.heads, hidden.device)
        caches = []
        for layer, *cache in zip(self.layers, state.keys, state.values, state.convs, strict=True):
            hidden, after = cast(ConformerLayer, layer).step(hidden, tuple(cache), table, mask)
            caches.append(after)
        keys, values, convs = (list(part) for part in zip(*caches, strict=True))
        log_probs = self._log_probs(hidden).unflatten(0, (-1, chunk))
        return log_probs, StreamState(keys, values, convs, state.processed + chunk)

    def _log_probs(self, hidden: Tensor) -> Tensor:
        return self.output(hidden).float().log_softmax(dim=-1)


def _initialise(module: nn.Module) -> None:
    """Weights that keep the signal's size and biases of zero.

    torch's own start gives an encoder input of standard deviation 0.07 beside biases as large. (Neatness, not
    speed: a student's first 16 epochs on AN4 went the same way from either start.)
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _visible(frames: int, context: Context | None, device: torch.device) -> Tensor:
    """[T', T'] true where frame (row) may look at frame (column)."""
    if context is None:
        return torch.ones(frames, frames, dtype=torch.bool, device=device)
    index = torch.arange(frames, device=device)
    start = (index // context.chunk_frames * context.chunk_frames).unsqueeze(1)
    return (index < start + context.chunk_frames) & (index >= start - context.left_context_frames)
