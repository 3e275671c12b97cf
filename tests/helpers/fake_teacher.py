"""A teacher without a model: posteriors of 40 ms frames from a fixed random projection of their samples."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asr_kd.posteriors import DensePosteriors
from asr_kd.text.vocabulary import Vocabulary

SAMPLES_A_FRAME = 640


class FakeTeacher:
    """Peaky like a CTC teacher: quiet frames are certain blanks, loud ones spread over some symbols."""

    def __init__(self, sha256: str = "a" * 64, letters: str = "abcdefgh") -> None:
        self.name = "fake"
        self.sha256 = sha256
        self.vocabulary = Vocabulary.characters([letters])
        self.frame_shift_ms = 40.0
        self.frame_offset_ms = 20.0
        self.features: dict[str, Any] = {"kind": "raw", "sample_rate": 16_000}
        self.calls = 0
        self.before_call: Callable[[int], None] = lambda calls: None

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        self.before_call(self.calls)
        self.calls += 1
        lens = sample_lens // SAMPLES_A_FRAME
        frames = waveforms[:, : waveforms.shape[1] // SAMPLES_A_FRAME * SAMPLES_A_FRAME]
        frames = frames.reshape(len(waveforms), -1, SAMPLES_A_FRAME)
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(SAMPLES_A_FRAME, len(self.vocabulary), generator=generator)
        logits = frames @ projection
        logits[..., self.vocabulary.blank_id] += 8.0
        return DensePosteriors(logits.log_softmax(-1), lens)
