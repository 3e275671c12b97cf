"""The Conformer's convolution module, centred (full context) or causal with an explicit cache.

LayerNorm over channels in place of BatchNorm: padding and batch composition change nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """Over a whole utterance; `valid` [B, T, 1] is 0 on padding, which counts as zeros."""
        gated = F.pad(F.glu(self.expand(hidden), dim=-1) * valid, (0, 0, self.past, self.future))
        return self._finish(self._along_time(gated.transpose(1, 2)).transpose(1, 2))

    def step(self, hidden: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk of every stream, [N · C, D], after the cached inputs [N, D, K − 1].

        Returns the output and the new cache.
        """
        gated = F.glu(self.expand(hidden), dim=-1).unflatten(0, (cache.shape[0], -1)).transpose(1, 2)
        gated = torch.cat([cache, gated], dim=-1)
        return self._finish(self._along_time(gated).transpose(1, 2).flatten(0, 1)), gated[..., -self.past :]

    def _along_time(self, gated: Tensor) -> Tensor:
        """The depthwise convolution, [B, D, T + K − 1] → [B, D, T]."""
        if gated.is_cuda:
            return self.depthwise(gated)
        # As an image of height 1, whose channels may lie together: 1.25 × as fast in training on a CPU.
        weight = self.depthwise.weight.unsqueeze(2)
        return F.conv2d(gated.unsqueeze(2), weight, self.depthwise.bias, groups=gated.shape[1]).squeeze(2)

    def _finish(self, mixed: Tensor) -> Tensor:
        """[.., D] → [.., D]."""
        return self.project(F.silu(self.norm(mixed)))
