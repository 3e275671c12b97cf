"""Self-attention with rotary relative positions: the same layer over a whole utterance or over one chunk.

Rotary embedding (Su et al. 2021) makes scores depend on the distance of two frames only. Keys are cached
before rotation and rotated by their place in the window, so nothing absolute is kept and a stream has no
longest length. Shapes: B or N streams, T frames, L left-context frames, C chunk frames, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BASE = 10_000.0


def rotary_table(frames: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for positions 0 … frames − 1, each [frames, head_width] float32; see `rotate`."""
    inverse = BASE ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)
    angles = torch.arange(frames, device=device, dtype=torch.float32).unsqueeze(1) * inverse
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(vectors: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each [.., T, head_width] vector by its position's angles: pairs are dimensions i and i + head_width / 2.

    Whole vectors are multiplied, not their halves: half as many operations, and none on slices (3 × as fast in bf16).
    """
    cos, sin = (part.to(vectors.dtype) for part in table)
    first, second = vectors.chunk(2, dim=-1)
    return torch.addcmul(vectors * cos, torch.cat([second, first], dim=-1), sin)


def attention_mask(allowed: Tensor) -> Tensor:
    """What `RelativeSelfAttention` wants of [.., T, T] that is true where a frame may look.

    On a CPU 0 and −∞ in float32, to be added to scores: filling them by bools takes 10 × as long.
    """
    if allowed.is_cuda:
        return allowed
    return torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))


class RelativeSelfAttention(nn.Module):
    """Multi-head attention over rotated queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, hidden: Tensor, table: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """[B, T, D] → [B, T, D]; `mask` is `attention_mask` of [B, 1, T, T] (or broadcastable)."""
        # As one product: for small models the number of operations counts, not their size.
        weight, bias = (
            torch.cat([getattr(projection, part) for projection in (self.query, self.key, self.value)])
            for part in ("weight", "bias")
        )
        projected = F.linear(hidden, weight, bias).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).contiguous()
        query_key, value = projected.split([2 * self.heads, self.heads], dim=1)  # [B, 2H or H, T, D / H]
        query, key = rotate(query_key, table).chunk(2, dim=1)
        return self._attend(query, key, value, mask)

    def step(
        self, hidden: Tensor, keys: Tensor, values: Tensor, table: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk [N, C, D] with cached keys and values [L, N, D].

        `table` covers the window's L + C positions, `mask` [N, 1, 1, L + C] leaves out what is no history.
        Returns the output [N, C, D] and the caches moved on by C frames.
        """
        left = keys.shape[0]
        window_keys = torch.cat([keys, self.key(hidden).transpose(0, 1)])  # [L + C, N, D]
        window_values = torch.cat([values, self.value(hidden).transpose(0, 1)])
        recent = (table[0][left:], table[1][left:])
        query = rotate(self._split(self.query(hidden)), recent)
        key = rotate(self._split(window_keys.transpose(0, 1)), table)
        output = self._attend(query, key, self._split(window_values.transpose(0, 1)), mask)
        return output, window_keys[-left:], window_values[-left:]

    def _split(self, projected: Tensor) -> Tensor:
        """[B, T, D] → [B, H, T, D / H]."""
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        if query.is_cuda:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            # The fused kernel's backward pass took 10 × as long as these lines in bf16 on a CPU (torch 2.14). The
            # softmax is of float32, the mask's type, which there is the faster one too.
            scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + mask
            mixed = scores.softmax(-1).to(value.dtype) @ value
        return self.output(mixed.transpose(1, 2).flatten(2))
