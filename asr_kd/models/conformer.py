"""Conformer–CTC (Gulati et al. 2020): one definition for teacher and student; see `acoustic_model` for how it runs.

Shapes: B utterances or N streams, T feature frames, T' encoder frames of 40 ms, D width, C chunk frames, L left-context
frames, R right-context frames, P places of a layout, K convolution kernel, V vocabulary.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_kd.features.fbank import NUM_MEL_BINS
from asr_kd.models.acoustic_model import AcousticModel, ModelLayer
from asr_kd.models.layers import Dropout, RelativeSelfAttention, Subsampling, Table, rotary_table, step_table
from asr_kd.models.layout import Layout
from asr_kd.models.settings import ConformerSettings


class FeedForward(nn.Sequential):
    """LayerNorm → linear → SiLU → dropout → linear, [.., D] → [.., D]; the caller adds the residual."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, inner), nn.SiLU(), Dropout(dropout), nn.Linear(inner, width)
        )


class ConvolutionModule(nn.Module):
    """Pointwise → GLU → depthwise → LayerNorm → SiLU → pointwise. Shapes: [B, T, D] in and out."""

    def __init__(self, width: int, kernel: int, causal: bool) -> None:
        super().__init__()
        self.past = kernel - 1 if causal else kernel // 2
        self.future = 0 if causal else kernel // 2
        self.expand = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Over whole utterances, [B, P, D]."""
        gated = layout.with_past(F.glu(self.expand(hidden), dim=-1), self.past, self.future)
        return layout.joined(self._finish(self.depthwise(gated.transpose(1, 2)).transpose(1, 2)))

    def step(self, hidden: Tensor, cache: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """One chunk of every stream and its right context, [N · (C + R), D], after the cached inputs [N, D, K − 1].

        Returns the output and the cache after the chunk's `chunk` frames.
        """
        gated = F.glu(self.expand(hidden), dim=-1).unflatten(0, (cache.shape[0], -1)).transpose(1, 2)
        gated = torch.cat([cache, gated], dim=-1)
        return self._finish(self.depthwise(gated).transpose(1, 2).flatten(0, 1)), gated[..., chunk : chunk + self.past]

    def _finish(self, mixed: Tensor) -> Tensor:
        """[.., D] → [.., D]."""
        return self.project(F.silu(self.norm(mixed)))


class ConformerLayer(ModelLayer):
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
        self.feed_forward_share = 0.5

    def fuse(self) -> None:
        """Put together what a graph need not do apart, for export: three projections, and halves into the weights."""
        self.attention.fuse()
        for module in (self.feed_forward_in, self.feed_forward_out):
            last = cast(nn.Linear, module[-1])
            last.weight, last.bias = nn.Parameter(0.5 * last.weight), nn.Parameter(0.5 * last.bias)  # exact
        self.feed_forward_share = 1.0

    def forward(self, hidden: Tensor, table: Table, mask: Tensor, layout: Layout) -> Tensor:
        hidden = torch.add(hidden, self.dropout(self.feed_forward_in(hidden)), alpha=self.feed_forward_share)
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), table, mask))
        hidden = hidden + self.dropout(self.convolution(self.convolution_norm(hidden), layout))
        hidden = torch.add(hidden, self.dropout(self.feed_forward_out(hidden)), alpha=self.feed_forward_share)
        return self.norm(hidden)

    def step(
        self,
        hidden: Tensor,
        caches: tuple[Tensor, ...],
        table: Table,
        mask: Tensor,
        chunk: int,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, conv = caches
        hidden = torch.add(hidden, self.feed_forward_in(hidden), alpha=self.feed_forward_share)
        mixed, keys, values = self.attention.step(self.attention_norm(hidden), keys, values, table, mask, chunk)
        hidden = hidden + mixed
        mixed, conv = self.convolution.step(self.convolution_norm(hidden), conv, chunk)
        hidden = hidden + mixed
        hidden = torch.add(hidden, self.feed_forward_out(hidden), alpha=self.feed_forward_share)
        return self.norm(hidden), (keys, values, conv)


class Conformer(AcousticModel):
    """A Conformer encoder with a linear CTC head."""

    def __init__(self, settings: ConformerSettings, vocab_size: int) -> None:
        super().__init__(settings, vocab_size)
        self.settings = settings
        self.subsampling = Subsampling(NUM_MEL_BINS, settings.subsampling_channels, settings.width)
        self.dropout = Dropout(settings.dropout)
        self.layers = nn.ModuleList([ConformerLayer(settings) for _ in range(settings.layers)])
        self.output = nn.Linear(settings.width, vocab_size)
        self.apply(_initialise)

    def _embed(self, normalised: Tensor, first: Tensor | None) -> Tensor:
        return self.dropout(self.subsampling(normalised))

    def _table(self, frames: int, device: torch.device) -> Table:
        return rotary_table(frames, self.settings.width // self.settings.heads, device)

    def _step_table(self, left: int, new: int, device: torch.device) -> Table:
        return step_table(left, new, self.settings.width // self.settings.heads, device)


def _initialise(module: nn.Module) -> None:
    """Weights that keep the signal's size, which torch's own do not, and biases of zero.

    While the biases are zero, a chunk and its context of masks alone are exactly zero in all layers. Each LayerNorm
    multiplies the gradient there by 1 / √eps = 316: such a step is not finite and is skipped. One step with other audio
    ends this, and after 20 the gradient is of the usual size.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
