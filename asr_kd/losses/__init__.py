"""Training objectives: each a sum over the batch; `objective` adds them up and divides by the student's frames.

- `ctc`: CTC against transcripts or a teacher's hypotheses, or guided by its spikes.
- `frame_kl`: a teacher's posteriors, frame by frame; `pooled_kl`: token by token.
- `representation`: a teacher's hidden layers; `auxiliary`: posteriors on an extra full-context layer.
- `self_distillation`: consistency of two views, dual mode.
- `base`: inputs and base classes; `settings`: the recipe's keys.
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
