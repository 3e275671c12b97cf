"""Bridge: a teacher whose posteriors are converted to the students' vocabulary and frames, before they are stored.

`bridge_vocabulary` maps symbols, `bridge_frames` maps frames.

Shapes: B utterances, S samples, T frames, V vocabulary, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from asr_kd.config import Settings
from asr_kd.features.fbank import num_frames
from asr_kd.files import sha256_of
from asr_kd.models.layers import FRAME_OFFSET_MS, FRAME_SHIFT_MS, output_lens
from asr_kd.posteriors.measures import frame_mask
from asr_kd.posteriors.types import DensePosteriors, FrameGrid
from asr_kd.targets.bridge_frames import Strategy, resample
from asr_kd.targets.bridge_vocabulary import SymbolMap, map_symbols
from asr_kd.teachers.base import LayeredTeacher, Teacher
from asr_kd.text.vocabulary import Vocabulary

STUDENT_GRID = FrameGrid(float(FRAME_SHIFT_MS), float(FRAME_OFFSET_MS))
"""Times of the frames of this project's models."""


class BridgeSettings(Settings):
    """Conversion of a teacher's posteriors where frames or symbols differ from the students'."""

    strategy: Strategy = "spikes_apart"
    """Merge of several of the teacher's frames into one: `spikes_apart` (blank only if all are; tokens that would meet
    in a frame move to a neighbour), `blank_aware` (the same without moving), `max_nonblank` (the frame with the surest
    token) or `mean`. The default loses the fewest tokens: benchmarks/bridge_strategies.py."""
    symbols: dict[str, str] = Field(default_factory=dict)
    """The teacher's symbol: the student's, where name and case differ; two may become one."""
    ignore: tuple[str, ...] = ()
    """Symbols that may go without a counterpart: the teacher's become blank, the student's get probability 0."""


def student_frames(sample_lens: Tensor) -> Tensor:
    """Return the number of frames of this project's models from samples at 16 kHz, [B] → [B]."""
    return output_lens(sample_lens.new_tensor([num_frames(samples) for samples in sample_lens.tolist()]))


def bridge(
    teacher: Teacher,
    vocabulary: Vocabulary,
    grid: FrameGrid = STUDENT_GRID,
    settings: BridgeSettings | None = None,
) -> Teacher:
    """Return a teacher whose posteriors are in the student's vocabulary on the student's frames.

    Args:
        grid: times of the student's frames.

    Returns:
        The teacher itself when nothing differs; a teacher without symbols gives the blank in all frames.

    Raises:
        VocabularyError: symbols that cannot be mapped: named, with what to do.
    """
    settings = settings or BridgeSettings()
    if len(teacher.vocabulary) == 1:
        return BlankTeacher(teacher, vocabulary)
    symbols = map_symbols(teacher.vocabulary, vocabulary, settings.symbols, settings.ignore)
    same_vocabulary = symbols.identical and teacher.vocabulary.sha256 == vocabulary.sha256  # with the same bpe.model
    if same_vocabulary and grid_of(teacher) == grid:
        return teacher
    return BridgedTeacher(teacher, symbols, grid, settings.strategy)


def grid_of(teacher: Teacher) -> FrameGrid:
    """Times of a teacher's frames."""
    return FrameGrid(teacher.frame_shift_ms, teacher.frame_offset_ms)


class BridgedTeacher:
    """A teacher behind a bridge; made by `bridge`. See `teachers.base.Teacher` for its members.

    Its SHA-256 covers the teacher's and the bridge's settings, which `features` lists as plain data.
    """

    def __init__(self, teacher: Teacher, symbols: SymbolMap, grid: FrameGrid, strategy: Strategy) -> None:
        self.teacher, self.symbols, self.strategy = teacher, symbols, strategy
        self.name = teacher.name
        self.vocabulary = symbols.student
        self.frame_shift_ms, self.frame_offset_ms = grid.shift_ms, grid.offset_ms
        self._grid = grid
        own = grid_of(teacher)
        description = {
            "teacher_sha256": teacher.sha256,
            "from": {"frame_shift_ms": own.shift_ms, "frame_offset_ms": own.offset_ms},
            "to": {"frame_shift_ms": self.frame_shift_ms, "frame_offset_ms": self.frame_offset_ms},
            "strategy": strategy,
            "symbols": symbols.describe(),
        }
        self.features: Mapping[str, Any] = {**teacher.features, "bridge": description}
        table = [*symbols.table, symbols.student.sha256]
        self.sha256 = sha256_of({"teacher": teacher.sha256, "bridge": description, "table": table})
        self._unmapped_mass, self._frames = 0.0, 0

    @property
    def unmapped_mass(self) -> float:
        """Mean probability a frame of symbols without a counterpart, over all audio so far; 0 before any."""
        return self._unmapped_mass / max(self._frames, 1)

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """Posteriors [B, T, V] and lengths [B] of waveforms [B, S]: as many frames as the student has.

        Audio too short for one of the two has no frames.

        Raises:
            TargetsError: the teacher's frames and the student's do not span the same audio.
        """
        with torch.inference_mode():
            computed, lens = self.teacher.log_probs(waveforms, sample_lens)
            computed = computed.float()
            if self.symbols.unmapped:
                mass = self.symbols.unmapped_mass(computed)
                inside = frame_mask(lens.to(mass.device), mass.shape[1])
                self._unmapped_mass += float(mass.masked_fill(~inside, 0.0).sum())
                self._frames += int(lens.sum())
            mapped = DensePosteriors(self.symbols.apply(computed), lens)
            blank_id, target_lens = self.vocabulary.blank_id, student_frames(sample_lens)
            return resample(mapped, grid_of(self.teacher), self._grid, target_lens, blank_id, self.strategy)


class BlankTeacher:
    """See `teachers.base.LayeredTeacher` for what its members mean."""

    def __init__(self, teacher: Teacher, vocabulary: Vocabulary) -> None:
        self.teacher, self.vocabulary, self.name = teacher, vocabulary, teacher.name
        self.sha256 = sha256_of({"teacher": teacher.sha256, "vocabulary": vocabulary.sha256})
        self.frame_shift_ms, self.frame_offset_ms = teacher.frame_shift_ms, teacher.frame_offset_ms
        self.features: Mapping[str, Any] = teacher.features

    @property
    def num_layers(self) -> int:
        return self._layered.num_layers

    @property
    def width(self) -> int:
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
