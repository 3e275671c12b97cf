"""A teacher as its students need it: in their vocabulary, on their frames. Bridging happens before anything is stored.

Knows the teachers' protocol and the students' frames; how frames and symbols are mapped stands beside it.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from asr_kd.config import Settings
from asr_kd.features.fbank import num_frames
from asr_kd.models.subsampling import FRAME_OFFSET_MS, FRAME_SHIFT_MS, output_lens
from asr_kd.posteriors.grid import FrameGrid
from asr_kd.teachers.base import Teacher
from asr_kd.text.vocabulary import Vocabulary

STUDENT_GRID = FrameGrid(float(FRAME_SHIFT_MS), float(FRAME_OFFSET_MS))
"""Where the frames of this project's models lie."""

Strategy = Literal["max_nonblank", "mean", "blank_aware"]


class BridgeSettings(Settings):
    """How a foreign teacher's posteriors become a student's."""

    strategy: Strategy = "blank_aware"
    """How several of the teacher's frames become one."""
    symbols: dict[str, str] = {}
    """The teacher's symbol → the student's, where the names alone do not say it."""
    ignore: tuple[str, ...] = ()
    """Symbols that only one side has and that may go without a counterpart."""


def student_frames(sample_lens: Tensor) -> Tensor:
    """Frames of this project's models for so many samples, [B] → [B]."""
    frames = [num_frames(samples) for samples in sample_lens.tolist()]
    return output_lens(sample_lens.new_tensor(frames))


def bridge(
    teacher: Teacher,
    vocabulary: Vocabulary,
    grid: FrameGrid = STUDENT_GRID,
    settings: BridgeSettings = BridgeSettings(),
    frames_of: Callable[[Tensor], Tensor] = student_frames,
) -> Teacher:
    """A teacher whose posteriors are in the student's vocabulary on the student's frames.

    Args:
        teacher: whose posteriors to bridge.
        vocabulary: the student's.
        grid: where the student's frames lie.
        settings: how frames and symbols are mapped.
        frames_of: the student's frames for so many samples at 16 kHz, [B] → [B].

    Returns:
        The teacher itself when nothing differs.

    Raises:
        VocabularyError: symbols that cannot be mapped; names them and says what to do.
    """
    if teacher.vocabulary == vocabulary and FrameGrid(teacher.frame_shift_ms, teacher.frame_offset_ms) == grid:
        return teacher
    raise NotImplementedError
