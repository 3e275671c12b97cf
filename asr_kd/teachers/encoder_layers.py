"""A public speech encoder without a head as a teacher of hidden layers, on the students' frames.

Shapes: B utterances, S samples, T frames of 40 ms, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr_kd.features.fbank import num_frames
from asr_kd.models.subsampling import FRAME_OFFSET_MS, FRAME_SHIFT_MS, output_len
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.base import LAYERS_ONLY
from asr_kd.teachers.ctc_teacher import arithmetic, with_precision
from asr_kd.teachers.encoder_ctc import paired_layers
from asr_kd.teachers.huggingface_encoder import HuggingfaceEncoder
from asr_kd.teachers.settings import EncoderSettings, Precision
from asr_kd.text.vocabulary import BLANK, Vocabulary


class EncoderLayers:
    """An encoder of transformers; see `teachers.base.LayeredTeacher` for what its members mean.

    Its vocabulary is the blank alone, and every frame is blank with certainty.

    Args:
        settings: which encoder, and its windows.
        device: where it runs.
        precision: arithmetic of its layers.

    Raises:
        AsrKdError: see `HuggingfaceEncoder`.
    """

    def __init__(
        self, settings: EncoderSettings, device: torch.device | str = "cpu", precision: Precision = "fp32"
    ) -> None:
        self._encoder = HuggingfaceEncoder(settings)
        self._encoder.model.to(device).eval().requires_grad_(False)
        self._device, self._precision = torch.device(device), precision
        self.name, self.sha256 = self._encoder.name, with_precision(self._encoder.sha256, precision)
        self.vocabulary = Vocabulary((BLANK,))
        self.frame_shift_ms, self.frame_offset_ms = float(FRAME_SHIFT_MS), float(FRAME_OFFSET_MS)
        self.features: Mapping[str, Any] = {
            "kind": LAYERS_ONLY,
            "encoder": self._encoder.name,
            "window_seconds": settings.window_seconds,
            "overlap_seconds": settings.overlap_seconds,
        }
        self.num_layers, self.width = self._encoder.num_layers, self._encoder.width

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """Zeros, [B, T, 1], and lengths [B] of waveforms [B, S]; the encoder does not run."""
        lens = torch.tensor([output_len(num_frames(samples)) for samples in sample_lens.tolist()])
        return DensePosteriors(torch.zeros(len(lens), int(lens.max()) if len(lens) else 0, 1), lens)

    def with_layers(
        self, waveforms: Tensor, sample_lens: Tensor, layers: Sequence[int]
    ) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
        """The same, and the outputs of these layers, [B, T, D] each, layer-normalised, pairs of frames averaged."""
        dense = self.log_probs(waveforms, sample_lens)
        if not layers:
            return dense, {}
        with torch.inference_mode(), arithmetic(self._precision, self._device):
            rows = [
                paired_layers(self._encoder, waveform[:length], max(frames, 1), layers)[:frames].float().mean(1)
                for waveform, length, frames in zip(waveforms, sample_lens.tolist(), dense.lens.tolist(), strict=True)
            ]
        hidden = pad_sequence(rows, batch_first=True)  # [B, T, L, D]
        return dense, {number: hidden[:, :, index] for index, number in enumerate(layers)}
