"""Whisper's encoder (Radford et al. 2022) as a streaming CTC model, on this project's features and 40 ms frames.

What differs from the original, so that a stream has no end and reads 30 ms ahead: an 80 × 80 affine map takes our
features to Whisper's; the two convolutions are not padded; pairs of 20 ms frames are joined before the layers; the
frequencies of the sinusoidal positions are multiples of 2π / 1,500, so that positions wrap around without a seam; a
causal depthwise convolution, zero at first, stands after each attention, which is limited to chunks.

Shapes: B utterances or N streams, T feature frames, T' encoder frames, D width, C chunk frames, K kernel.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_kd.features.fbank import NUM_MEL_BINS
from asr_kd.models.acoustic_model import AcousticModel, ModelLayer, Part
from asr_kd.models.layers import Dropout, RelativeSelfAttention, Table
from asr_kd.models.layout import Layout
from asr_kd.models.settings import CausalHead, WhisperSettings

PERIOD = 1500
"""Positions of 20 ms after which they repeat: as many as Whisper has."""
FRAMES_PER_PERIOD = PERIOD // 2
KERNEL = 3
"""Of Whisper's two convolutions."""


class WrappedPositions(nn.Module):
    """Whisper's sinusoidal positions, repeated every 1,500; a frame of 40 ms has the mean of its two positions.

    Frame t joins Whisper's frames 2t + 1 and 2t + 2, because its convolutions begin with a frame of padding. Angles are
    taken modulo a turn in integers, so that they are as exact after a day as at the beginning.
    """

    turns: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        frequencies = torch.exp(-math.log(10_000.0) / (half - 1) * torch.arange(half, dtype=torch.float64))
        turns = (frequencies * PERIOD / (2 * math.pi)).round()
        self.register_buffer("turns", turns.long(), persistent=False)  # in a period
        scale = (math.pi * turns / PERIOD).cos()  # of the mean of the sines half a position before and after
        self.register_buffer("scale", torch.cat([scale, scale]).float(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Frame numbers [.., T'] int64 → [.., T', D] float32."""
        halves = 2 * PERIOD  # half positions in a period
        angles = (4 * frames + 3).unsqueeze(-1) * self.turns % halves * (2 * math.pi / halves)
        return torch.cat([angles.sin(), angles.cos()], dim=-1) * self.scale


class Stem(nn.Module):
    """[B, T, F] → [B, T', D]; frame t reads features 4t … 4t + 6 and nothing else.

    Convolutions as products over three frames: they are then quantised with the other matrices.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(NUM_MEL_BINS, NUM_MEL_BINS)
        self.first = nn.Linear(KERNEL * NUM_MEL_BINS, width)
        self.second = nn.Linear(KERNEL * width, width)
        self.join = nn.Linear(2 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.gelu(self.first(_windows(self.map(features), 1)))
        hidden = F.gelu(self.second(_windows(hidden, 2)))
        frames = hidden.shape[1] // 2
        return self.join(hidden[:, : 2 * frames].unflatten(1, (frames, 2)).flatten(2))


def _windows(frames: Tensor, stride: int, kernel: int = KERNEL) -> Tensor:
    """[B, T, D] → [B, (T − kernel) // stride + 1, kernel · D]."""
    ends = [offset + 1 - kernel or None for offset in range(kernel)]
    return torch.cat([frames[:, offset:end:stride] for offset, end in enumerate(ends)], dim=-1)


class CausalDepthwise(nn.Module):
    """A depthwise convolution over the last K frames, which adds nothing at first."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.past = kernel - 1
        self.weight = nn.Parameter(torch.zeros(width, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, D, T + K − 1] → [B, T, D]."""
        return F.conv1d(hidden, self.weight, self.bias, groups=hidden.shape[1]).transpose(1, 2)


class WhisperLayer(ModelLayer):
    """Attention, causal convolution, feed-forward; LayerNorm before each, residual throughout."""

    def __init__(self, settings: WhisperSettings) -> None:
        super().__init__()
        sizes, rank = settings.opened, settings.feed_forward_rank
        width = sizes.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = RelativeSelfAttention(width, sizes.heads)
        self.convolution_norm = nn.LayerNorm(width)
        self.convolution = CausalDepthwise(width, settings.kernel)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.expand = _linear(width, sizes.feed_forward, rank)
        self.contract = _linear(sizes.feed_forward, width, rank)
        self.dropout = Dropout(settings.dropout)

    def fuse(self) -> None:
        """Three projections as one."""
        self.attention.fuse()

    def forward(self, hidden: Tensor, table: Table, mask: Tensor, layout: Layout) -> Tensor:
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), table, mask))
        past = layout.with_past(self.convolution_norm(hidden), self.convolution.past)
        mixed = layout.joined(self.convolution(past.transpose(1, 2)))
        return self._feed_forward(hidden + self.dropout(mixed))

    def step(
        self, hidden: Tensor, caches: tuple[Tensor, ...], table: Table, mask: Tensor, chunk: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, conv = caches
        mixed, keys, values = self.attention.step(self.attention_norm(hidden), keys, values, table, mask, chunk)
        hidden = hidden + mixed
        normed = self.convolution_norm(hidden).unflatten(0, (conv.shape[0], -1)).transpose(1, 2)
        conv = torch.cat([conv, normed], dim=-1)
        hidden = self._feed_forward(hidden + self.convolution(conv).flatten(0, 1))
        return hidden, (keys, values, conv[..., chunk : chunk + self.convolution.past])

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.dropout(self.contract(F.gelu(self.expand(self.feed_forward_norm(hidden)))))


class HeadBlock(ModelLayer):
    """A residual convolution over the last frames: LayerNorm → convolution → GELU → linear.

    The caches of keys and values, which all layers of a model have, pass through it unchanged.

    Args:
        settings: of the model.
        head: of the blocks.
        first: whether the block takes Whisper's last layer, whose LayerNorm it then begins with.
    """

    def __init__(self, settings: WhisperSettings, head: CausalHead, first: bool) -> None:
        super().__init__()
        width = settings.opened.width
        self.past, self.cached = head.kernel - 1, settings.kernel - 1
        self.encoder_norm = nn.LayerNorm(width) if first else nn.Identity()
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Linear(head.kernel * width, head.width)
        self.project = nn.Linear(head.width, width)
        self.dropout = Dropout(head.dropout)

    def fuse(self) -> None:
        """Nothing is computed apart."""

    def forward(self, hidden: Tensor, table: Table, mask: Tensor, layout: Layout) -> Tensor:
        hidden = self.encoder_norm(hidden)
        return hidden + layout.joined(self._convolve(layout.with_past(self.norm(hidden), self.past)))

    def step(
        self, hidden: Tensor, caches: tuple[Tensor, ...], table: Table, mask: Tensor, chunk: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, conv = caches
        hidden = self.encoder_norm(hidden)
        normed = self.norm(hidden).unflatten(0, (conv.shape[0], -1)).transpose(1, 2)
        conv = torch.cat([conv, normed], dim=-1)  # [N, D, K − 1 + C + R]
        hidden = hidden + self._convolve(conv[..., self.cached - self.past :].transpose(1, 2)).flatten(0, 1)
        return hidden, (keys, values, conv[..., chunk : chunk + self.cached])

    def _convolve(self, frames: Tensor) -> Tensor:
        """[B, T + kernel − 1, D] → [B, T, D]."""
        windows = _windows(frames, 1, self.past + 1)
        return self.dropout(self.project(self.dropout(F.gelu(self.convolution(windows)))))


class StreamingWhisper(AcousticModel):
    """Whisper's encoder with a CTC head: linear, or causal convolutions before it."""

    def __init__(self, settings: WhisperSettings, vocab_size: int) -> None:
        super().__init__(settings, vocab_size)
        self.settings, width = settings, settings.opened.width
        self.stem = Stem(width)
        self.positions = WrappedPositions(width)
        self.dropout = Dropout(settings.dropout)
        layers: list[ModelLayer] = [WhisperLayer(settings) for _ in settings.layers]
        if settings.head is not None:
            layers += [HeadBlock(settings, settings.head, number == 0) for number in range(settings.head.blocks)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocab_size)

    @property
    def head_from(self) -> int:
        """Number of layers below the head."""
        return len(self.settings.layers)

    def part_of(self, parameter: str) -> Part:
        """The head belongs to the output. Below it the map, the joining of frames and the added convolutions are new,
        the rest is Whisper's.
        """
        place, number, *_ = parameter.split(".")
        if ".encoder_norm." in parameter:
            return "adopted"
        if place == "layers" and int(number) >= self.head_from:
            return "output"
        if place == "output" or (place == "norm" and self.settings.head is not None):
            return "output"
        new = parameter.startswith(("stem.map.", "stem.join.")) or ".convolution" in parameter
        return "layers" if new else "adopted"

    @torch.no_grad()
    def copy_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Fill in the weights of Whisper's encoder, by the names that transformers gives them below `encoder.`.

        The map, the added convolutions and the output layer stay as they are; frames of 40 ms begin as the mean of two.
        """

        def copy(part: nn.Module, name: str) -> None:
            for own, parameter in part.named_parameters():
                parameter.copy_(weights[f"{name}.{own}"])

        for linear, name in ((self.stem.first, "conv1"), (self.stem.second, "conv2")):
            linear.weight.copy_(weights[f"{name}.weight"].transpose(1, 2).flatten(1))
            linear.bias.copy_(weights[f"{name}.bias"])
        half = 0.5 * torch.eye(self.stem.join.out_features)
        self.stem.join.weight.copy_(torch.cat([half, half], dim=1))
        self.stem.join.bias.zero_()
        for layer, number in zip(self.layers[: self.head_from], self.settings.layers, strict=True):
            if not isinstance(layer, WhisperLayer):
                raise TypeError(f"expected a WhisperLayer, found {type(layer).__name__}")
            name, attention = f"layers.{number}", layer.attention
            copy(layer.attention_norm, f"{name}.self_attn_layer_norm")
            copy(attention.query, f"{name}.self_attn.q_proj")
            attention.key.weight.copy_(weights[f"{name}.self_attn.k_proj.weight"])
            attention.key.bias.zero_()  # Whisper has none; the softmax cancels it
            copy(attention.value, f"{name}.self_attn.v_proj")
            copy(attention.output, f"{name}.self_attn.out_proj")
            copy(layer.feed_forward_norm, f"{name}.final_layer_norm")
            _copy_linear(layer.expand, weights, f"{name}.fc1")
            _copy_linear(layer.contract, weights, f"{name}.fc2")
        copy(self._encoder_norm, "layer_norm")

    @torch.no_grad()
    def set_feature_map(self, weight: Tensor, bias: Tensor) -> None:
        """Map features x [80] to Whisper's: `weight` [80, 80] @ x + `bias` [80]; call after `set_normalisation`."""
        self.stem.map.weight.copy_(weight / self.inverse_std)
        self.stem.map.bias.copy_(bias + weight @ self.mean)

    def _embed(self, normalised: Tensor, first: Tensor | None) -> Tensor:
        hidden = self.stem(normalised)
        count, frames, _ = hidden.shape
        if first is None:
            first = torch.zeros(count, dtype=torch.int64)
            if self.training:  # a stream is at any position; an utterance would always be at the first
                first = torch.randint(FRAMES_PER_PERIOD, (count,))
            first = first.to(hidden.device, non_blocking=True)
        numbers = first.unsqueeze(1) + torch.arange(frames, device=hidden.device)
        return self.dropout(hidden + self.positions(numbers).to(hidden.dtype))

    def _layer_output(self, hidden: Tensor, number: int) -> Tensor:
        """Whisper's last layer includes the LayerNorm after it, as a teacher's does."""
        return self._encoder_norm(hidden) if number == self.head_from else hidden

    @property
    def _encoder_norm(self) -> nn.Module:
        """The LayerNorm after Whisper's last layer."""
        if self.settings.head is None:
            return self.norm
        return self.layers[self.head_from].get_submodule("encoder_norm")

    def _log_probs(self, hidden: Tensor) -> Tensor:
        return super()._log_probs(self.norm(hidden))


def _linear(inputs: int, outputs: int, rank: int | None) -> nn.Module:
    """A linear layer, or the product of two."""
    if rank is None or rank >= min(inputs, outputs):
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))


def _copy_linear(part: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Copy a linear layer; into a product of two the nearest of its rank."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if isinstance(part, nn.Linear):
        part.weight.copy_(weight)
        part.bias.copy_(bias)
        return
    inner, outer = part.get_submodule("0"), part.get_submodule("1")
    if not (isinstance(inner, nn.Linear) and isinstance(outer, nn.Linear)):
        raise TypeError("expected two linear layers")
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    root = values[: inner.out_features].sqrt()
    outer.weight.copy_(left[:, : len(root)] * root)
    inner.weight.copy_(root.unsqueeze(1) * right[: len(root)])
    outer.bias.copy_(bias)
