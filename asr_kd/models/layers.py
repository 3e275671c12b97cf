"""Layers: subsampling, rotary self-attention and dropout.

Two unpadded strided convolutions make one 40 ms encoder frame of four 10 ms feature frames. Each layer above runs over
a whole utterance or over one chunk with explicit caches, to the same result. Rotary embedding (Su et al. 2021) makes
scores depend on the distance of two frames only. Keys are cached before rotation and rotated by their place in the
window, so nothing absolute is kept and a stream has no longest length.

Shapes: B utterances or N streams, T frames, F mel bins, L left-context frames, C chunk frames, R right-context
frames, D width, H heads."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FACTOR = 4
FRAME_SHIFT_MS = 40
FRAME_OFFSET_MS = 35
"""Centre of encoder frame 0: the middle of feature frames 0 … 6, whose own centres lie at 5 + 10k ms."""
LOOKAHEAD_FEATURE_FRAMES = 3
"""Feature frames that a chunk reads beyond its own: a window of 4C + 3 gives C encoder frames."""


def output_lens(feature_lens: Tensor) -> Tensor:
    """Encoder frames of so many feature frames: floor((floor((n − 1) / 2) − 1) / 2), at least 0."""
    return ((((feature_lens - 1) // 2) - 1) // 2).clamp_min(0)


def output_len(feature_frames: int) -> int:
    """The same of one length."""
    return max(((feature_frames - 1) // 2 - 1) // 2, 0)


def feature_frames_for(encoder_frames: int) -> int:
    """Feature frames that give exactly so many encoder frames (more than 0)."""
    return FACTOR * encoder_frames + LOOKAHEAD_FEATURE_FRAMES


class Subsampling(nn.Module):
    """[B, T, F] → [B, T', D]; frame t sees features 4t … 4t + 6 and nothing else."""

    def __init__(self, bins: int, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, kernel_size=3, stride=2)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, stride=2)
        self.project = nn.Linear(channels * (((bins - 1) // 2 - 1) // 2), width)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.second(self.first(features.unsqueeze(1)).relu()).relu()  # [B, channels, T', F']
        return self.project(hidden.transpose(1, 2).flatten(2))


BASE = 10_000.0

Table = tuple[Tensor, Tensor] | None
"""Cosines and signed sines of `rotate`; None where positions are part of the input instead."""


def rotary_table(frames: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for positions 0 … frames − 1, each [frames, head_width] float32; see `rotate`."""
    inverse = BASE ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)
    angles = torch.arange(frames, device=device, dtype=torch.float32).unsqueeze(1) * inverse
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def step_table(left: int, new: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`rotary_table` of a step's L + C + R keys, and of its C + R queries after them: `step` turns all at once."""
    cos, sin = rotary_table(left + new, head_width, device)
    return torch.cat([cos, cos[left:]]), torch.cat([sin, sin[left:]])


def rotate(vectors: Tensor, table: Table) -> Tensor:
    """Turn each [.., T, head_width] vector by its position's angles: pairs are dimensions i and i + head_width / 2.

    Whole vectors are multiplied, not their halves: half as many operations, and none on slices.
    """
    if table is None:
        return vectors
    cos, sin = (part.to(vectors.dtype) for part in table)
    first, second = vectors.chunk(2, dim=-1)
    return torch.addcmul(vectors * cos, torch.cat([second, first], dim=-1), sin)


def attention_mask(allowed: Tensor) -> Tensor:
    """The mask of `RelativeSelfAttention`, from [.., T, T] that is true where a frame may look.

    On a CPU 0 and −∞ in float32, to be added to scores: filling them by bools is slower (docs/measurements.md).
    """
    if allowed.is_cuda:
        return allowed
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, float("-inf"))


class RelativeSelfAttention(nn.Module):
    """Multi-head attention over rotated queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.fused: nn.Linear | None = None

    def fuse(self) -> None:
        """Put one projection in the place of three, for export: a graph then holds, and quantises, one matrix."""
        weight, bias = self._packed()
        fused = nn.Linear(weight.shape[1], weight.shape[0])
        fused.weight, fused.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.fused = fused
        del self.query, self.key, self.value

    def forward(self, hidden: Tensor, table: Table, mask: Tensor) -> Tensor:
        """[B, T, D] → [B, T, D]; `mask` is `attention_mask` of [B, 1, T, T] (or broadcastable)."""
        projected = self._project(hidden).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).contiguous()
        query_key, value = projected.split([2 * self.heads, self.heads], dim=1)  # [B, 2H or H, T, D / H]
        query, key = rotate(query_key, table).chunk(2, dim=1)
        return self.output(self._mix(query, key, value, mask).transpose(1, 2).flatten(2))

    def step(
        self, hidden: Tensor, keys: Tensor, values: Tensor, table: Table, mask: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk and its right context of every stream, [N · (C + R), D], with cached keys and values [L, N, D].

        `table` is a `step_table` or None, `mask` [N, 1, 1, L + C + R] leaves out what is no history, `chunk` is C.
        Returns the output [N · (C + R), D] and the caches moved on by C frames.
        """
        left, new = keys.shape[0], mask.shape[-1] - keys.shape[0]
        projected = self._project(hidden).unflatten(0, (-1, new)).transpose(0, 1)  # [C + R, N, 3D]
        query, key, value = projected.chunk(3, dim=-1)
        window, values = torch.cat([keys, key, query]), torch.cat([values, value])  # [L + 2 or 1 · (C + R), N, D]
        turned, query = rotate(self._split(window), table).split([left + new, new], dim=2)
        mixed = self._mix(query, turned, self._split(values), mask)
        mixed = self.output(mixed.transpose(1, 2).flatten(2).flatten(0, 1))
        return mixed, window[chunk : chunk + left], values[chunk : chunk + left]

    def _project(self, hidden: Tensor) -> Tensor:
        """Queries, keys and values, [.., D] → [.., 3D].

        As one product: for small models the number of operations counts, not their size.
        """
        return F.linear(hidden, *self._packed()) if self.fused is None else self.fused(hidden)

    def _packed(self) -> tuple[Tensor, Tensor]:
        """Weight [3D, D] and bias [3D] of the three projections."""
        projections = (self.query, self.key, self.value)
        return torch.cat([one.weight for one in projections]), torch.cat([one.bias for one in projections])

    def _split(self, projected: Tensor) -> Tensor:
        """[T, N, D] → [N, H, T, D / H]."""
        return projected.unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Values by how much queries and keys agree, [B, H, T, D / H]."""
        if query.is_cuda:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        # The fused kernel's backward pass is slower in bf16 on a CPU; the softmax is of float32, the mask's type.
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + mask
        return scores.softmax(-1).to(value.dtype) @ value


STEPS = 1 << 16


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014); the probability is kept to 1 part in 65,536.

    On the CPU, where torch draws a random number for each element, each 64-bit draw decides four elements, and the
    comparison writes the mask in the type that it is multiplied in (docs/measurements.md). Elsewhere it is torch's own.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return hidden
        if hidden.device.type != "cpu":
            return nn.functional.dropout(hidden, self.probability)
        dropped = round(self.probability * STEPS)
        draws = torch.empty((hidden.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        kept = torch.empty(hidden.numel(), dtype=hidden.dtype)
        torch.ge(draws.view(torch.int16)[: hidden.numel()], dropped - STEPS // 2, out=kept)
        return hidden * kept.mul_(STEPS / (STEPS - dropped)).view(hidden.shape)
