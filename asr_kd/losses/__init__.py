"""What a student is trained on: one objective a file, and their weighted sum.

Every term is a sum over the batch; the weighted sum divides
once, by the global batch's number of student frames.
"""

from asr_kd.losses.base import Hypotheses, References, Shape, StudentOutput, Supervision
from asr_kd.losses.ctc import SequenceSettings
from asr_kd.losses.objective import LossTerms, Objective
from asr_kd.losses.settings import DistillSettings

__all__ = [
    "DistillSettings",
    "Hypotheses",
    "LossTerms",
    "Objective",
    "References",
    "SequenceSettings",
    "Shape",
    "StudentOutput",
    "Supervision",
]
