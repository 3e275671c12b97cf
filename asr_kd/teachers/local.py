"""Teachers that this project trained: model folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_kd.features.fbank import FEATURE_CONTRACT, fbank, pad_batch
from asr_kd.models.subsampling import FRAME_OFFSET_MS, FRAME_SHIFT_MS, feature_frames_for
from asr_kd.models.weights import load_model
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.ctc_teacher import arithmetic, with_precision
from asr_kd.teachers.settings import Precision
from asr_kd.text.vocabulary import Vocabulary


class LocalTeacher:
    """A model folder as a teacher; see `teachers.base.LayeredTeacher` for what its members mean.

    Args:
        folder: written by `save_model`.
        device: where the model runs; posteriors stay there.
        precision: arithmetic of the model's layers; the last softmax is taken in float32 by the model itself.

    Raises:
        CheckpointError: not a model folder, or damaged.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu", precision: Precision = "fp32") -> None:
        loaded = load_model(folder, device)
        self.name = str(loaded.card.get("name", folder.name))
        self.sha256 = with_precision(loaded.sha256, precision)
        self.vocabulary: Vocabulary = loaded.vocabulary
        self.frame_shift_ms = float(FRAME_SHIFT_MS)
        self.frame_offset_ms = float(FRAME_OFFSET_MS)
        self.features: Mapping[str, Any] = FEATURE_CONTRACT
        self.num_layers, self.width = loaded.model.settings.num_layers, loaded.model.settings.width
        self._model = loaded.model
        self._device, self._precision = torch.device(device), precision

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """Posteriors [B, T, V] and lengths [B] of waveforms [B, S]."""
        return self.with_layers(waveforms, sample_lens, ())[0]

    def with_layers(
        self, waveforms: Tensor, sample_lens: Tensor, layers: Sequence[int]
    ) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
        """Posteriors as of `log_probs`, and the outputs of these layers, [B, T, D] each; T is the posteriors'."""
        rows = zip(waveforms, sample_lens.tolist(), strict=True)
        features, lens = pad_batch([fbank(waveform[:length]) for waveform, length in rows])
        missing = feature_frames_for(1) - features.shape[1]
        if missing > 0:  # the convolutions refuse input without a single output frame
            features = torch.nn.functional.pad(features, (0, 0, 0, missing))
        with torch.inference_mode(), arithmetic(self._precision, self._device):
            output = self._model(features.to(self._device), lens.to(self._device), wanted_layers=layers)
        return DensePosteriors(output.log_probs, output.lens), output.layers
