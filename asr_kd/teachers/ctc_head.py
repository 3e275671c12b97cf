"""CTC head on a speech encoder: a projection of two of its frames to one of 40 ms, residual convolutions, an output.

Source of the recipe (weighted layers of a frozen encoder): Yang et al., "SUPERB", 2021; masks in training as in Baevski
et al., "wav2vec 2.0", 2020.

Shapes: B utterances, T' frames of 40 ms, L layers, D width of the encoder, W width of the head, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.teachers.settings import HeadSettings


class ResidualConvolution(nn.Module):
    """LayerNorm, convolution over time, GELU and dropout, added to the input."""

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        width = settings.width
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, settings.kernel, padding=settings.kernel // 2)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        """[B, T', W] with 1 for frames of the utterance and 0 for padding in `valid` [B, T', 1]."""
        mixed = self.convolution((self.norm(hidden) * valid).transpose(1, 2)).transpose(1, 2)
        added: Tensor = hidden + self.dropout(F.gelu(mixed))
        return added


class CtcHead(nn.Module):
    """Pairs of encoder frames [B, T', 2, L, D] to log-probabilities [B, T', V]."""

    def __init__(self, settings: HeadSettings, layers: int, encoder_width: int, vocab_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.layer_logits = nn.Parameter(torch.zeros(layers))
        self.project = nn.Linear(2 * encoder_width, settings.width)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(ResidualConvolution(settings) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(settings.width)
        self.output = nn.Linear(settings.width, vocab_size)

    def forward(self, pairs: Tensor, lens: Tensor, with_masks: bool = True) -> Tensor:
        """Masks are drawn in training, unless the encoder's trained layers have had them already."""
        weights = self.layer_logits.softmax(0).unsqueeze(-1)
        mixed = (pairs.float() * weights).sum(-2)  # [B, T', 2, D]
        valid = torch.arange(mixed.shape[1], device=mixed.device) < lens.to(mixed.device).unsqueeze(1)
        if self.training and with_masks:
            mixed = self._masked(mixed, lens)
        hidden = self.dropout(self.project(mixed.flatten(2)))
        for block in self.blocks:
            hidden = block(hidden, valid.unsqueeze(-1).to(hidden.dtype))
        log_probs: Tensor = self.output(self.dropout(self.norm(hidden))).float().log_softmax(-1)
        return log_probs

    def _masked(self, mixed: Tensor, lens: Tensor) -> Tensor:
        """Zeros in stretches of time and bands of channels of [B, T', 2, D]."""
        kept = torch.zeros(mixed.shape[0], mixed.shape[1], 1, mixed.shape[3])
        for row, length in enumerate(lens.tolist()):
            kept[row, :length, 0] = draw_masks(length, FRAME_SHIFT_MS, mixed.shape[3], self.settings)
        return mixed * kept.to(mixed.device)


def draw_masks(frames: int, shift_ms: float, width: int, settings: HeadSettings) -> Tensor:
    """1 and, in stretches of time and bands of channels, 0: [T, D], drawn on the CPU for one utterance."""
    kept = torch.ones(frames, width)
    for _ in range(round(settings.masks_per_second * frames * shift_ms / 1000)):
        start, stop = _span(round(settings.mask_frames * FRAME_SHIFT_MS / shift_ms), frames)
        kept[start:stop] = 0
    for _ in range(settings.channel_masks):
        start, stop = _span(round(settings.channel_mask_share * width), width)
        kept[:, start:stop] = 0
    return kept


def _span(widest: int, extent: int) -> tuple[int, int]:
    width = int(torch.randint(min(widest, extent) + 1, ()))
    start = int(torch.randint(extent - width + 1, ()))
    return start, start + width
