"""Two unpadded strided convolutions: four 10 ms feature frames become one 40 ms encoder frame."""

from torch import Tensor, nn

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
