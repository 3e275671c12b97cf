"""A teacher without symbols of its own, in its students' vocabulary: blank in every frame, hidden layers as they are.

Shapes: B utterances, S samples, T frames, V vocabulary, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from asr_kd.files import sha256_of
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.base import LayeredTeacher, Teacher
from asr_kd.text.vocabulary import Vocabulary


class BlankTeacher:
    """See `teachers.base.LayeredTeacher` for what its members mean.

    Args:
        teacher: one whose vocabulary is the blank alone, on the students' frames.
        vocabulary: the students'.
    """

    def __init__(self, teacher: Teacher, vocabulary: Vocabulary) -> None:
        self.teacher, self.vocabulary, self.name = teacher, vocabulary, teacher.name
        self.sha256 = sha256_of({"teacher": teacher.sha256, "vocabulary": vocabulary.sha256})
        self.frame_shift_ms, self.frame_offset_ms = teacher.frame_shift_ms, teacher.frame_offset_ms
        self.features: Mapping[str, Any] = teacher.features

    @property
    def num_layers(self) -> int:
        """The teacher's."""
        return self._layered.num_layers

    @property
    def width(self) -> int:
        """The teacher's."""
        return self._layered.width

    @property
    def _layered(self) -> LayeredTeacher:
        if not isinstance(self.teacher, LayeredTeacher):
            raise AttributeError(f"the teacher {self.name!r} is not open")
        return self.teacher

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """Blank with certainty, [B, T, V], and lengths [B] of waveforms [B, S]."""
        return self._blank(self.teacher.log_probs(waveforms, sample_lens))

    def with_layers(
        self, waveforms: Tensor, sample_lens: Tensor, layers: Sequence[int]
    ) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
        """The same, and the teacher's layers, [B, T, D] each."""
        dense, hidden = self._layered.with_layers(waveforms, sample_lens, layers)
        return self._blank(dense), hidden

    def _blank(self, dense: DensePosteriors) -> DensePosteriors:
        spread = torch.full((*dense.log_probs.shape[:2], len(self.vocabulary)), float("-inf"))
        spread[..., self.vocabulary.blank_id] = 0.0
        return DensePosteriors(spread, dense.lens)
