"""What a system thinks in each frame, whichever kind of system it is. Knows nothing of references or scores.

Shapes: S samples, T frames, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from asr_kd.decoding.greedy import Alignment, greedy_alignments
from asr_kd.errors import EvaluationError, VocabularyError
from asr_kd.evaluation.opening import TeacherRecognizer
from asr_kd.evaluation.systems import System
from asr_kd.models.settings import Context
from asr_kd.posteriors.grid import FrameGrid
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.targets.bridge import STUDENT_GRID, BridgeSettings, bridge, grid_of
from asr_kd.teachers.base import Teacher
from asr_kd.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Hearing:
    """A system's posteriors.

    Args:
        log_probs: a waveform [S] → log-probabilities [T, V] float32 on the CPU, its padding included.
        vocabulary: what V means.
        grid: where the frames lie.
        context: chunk and left context of a system that streams.
        teacher: the teacher behind it, where one may be bridged to another vocabulary and grid.
    """

    log_probs: Callable[[Tensor], Tensor]
    vocabulary: Vocabulary
    grid: FrameGrid
    context: Context | None = None
    teacher: Teacher | None = None

    def emissions(self, log_probs: Tensor) -> Alignment:
        """Greedy tokens of [T, V] and the frame of each."""
        lens = torch.tensor([len(log_probs)])
        return greedy_alignments(log_probs.unsqueeze(0), lens, self.vocabulary.blank_id)[0]


def hearing_of(system: System) -> Hearing | None:
    """The posteriors of a system; None for one that gives text only."""
    recognizer = system.recognizer
    if isinstance(recognizer, TeacherRecognizer):
        return _hearing_of_teacher(recognizer.teacher)
    if isinstance(recognizer, Recognizer):
        own = recognizer
        return Hearing(lambda waveform: _one(own, waveform), own.vocabulary, STUDENT_GRID, own.context)
    return None


def bridged_to(teacher: Hearing, student: Hearing, settings: BridgeSettings | None = None) -> Hearing:
    """The teacher in the student's vocabulary on the student's frames.

    Raises:
        EvaluationError: its symbols cannot be mapped, or it is a model whose posteriors are not bridged.
    """
    if teacher.vocabulary.symbols == student.vocabulary.symbols and teacher.grid == student.grid:
        return teacher
    if teacher.teacher is None:
        raise EvaluationError("the teacher's tokens are not the student's")
    try:
        return _hearing_of_teacher(bridge(teacher.teacher, student.vocabulary, student.grid, settings))
    except VocabularyError as error:
        raise EvaluationError(f"the teacher's symbols cannot be mapped to the student's ({error})") from error


def _one(recognizer: Recognizer, waveform: Tensor) -> Tensor:
    output = recognizer.log_probs([waveform])
    return output.log_probs[0, : int(output.lens[0])].float()


def _hearing_of_teacher(teacher: Teacher) -> Hearing:
    def log_probs(waveform: Tensor) -> Tensor:
        output = teacher.log_probs(waveform.unsqueeze(0), torch.tensor([len(waveform)]))
        return output.log_probs[0, : int(output.lens[0])].float().cpu()

    return Hearing(log_probs, teacher.vocabulary, grid_of(teacher), teacher=teacher)
