"""Two unpadded strided convolutions: four 10 ms feature frames become one 40 ms encoder frame."""

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
        if self.training and not features.is_cuda:
            return self._with_channels_last(features)
        hidden = self.second(self.first(features.unsqueeze(1)).relu()).relu()  # [B, channels, T', F']
        return self.project(hidden.transpose(1, 2).flatten(2))

    def _with_channels_last(self, features: Tensor) -> Tensor:
        """The same with each cell's channels together, which the second convolution's gradients are made of.

        Backward and forward it takes 0.7 × as long in bf16 on a CPU, and as long in float32.
        """
        windows = features.unfold(1, 3, 2).unfold(2, 3, 2).flatten(3)  # [B, T / 2, F / 2, 9]
        hidden = F.linear(windows, self.first.weight.flatten(1), self.first.bias).relu()
        hidden = self.second(hidden.permute(0, 3, 1, 2)).relu().permute(0, 2, 3, 1)  # [B, T', F', channels]
        # The weight is turned, not what it meets: `project` expects channels before bins.
        weight = self.project.weight.unflatten(1, (hidden.shape[-1], -1)).transpose(1, 2).flatten(1)
        return F.linear(hidden.flatten(2), weight, self.project.bias)
