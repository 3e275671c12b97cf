"""Training job (everything that decides the result), and control (where it runs)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from asr_kd.corpora.manifest import Utterance
from asr_kd.distributed import ALONE, Ranks
from asr_kd.features.augment import WaveformAugmentation
from asr_kd.losses import DistillSettings
from asr_kd.models.settings import ConformerSettings, WhisperSettings
from asr_kd.models.weights import Model
from asr_kd.progress import SILENT, Progress
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.store import Store
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.settings import EncoderCtcSettings
from asr_kd.text.normalize import Normalizer
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainingJob:
    """Everything that decides the result of a training run."""

    name: str
    key: str
    """Cache key of the run: a checkpoint with another key is refused. Of a recipe that of the stage's task."""
    model: ConformerSettings | WhisperSettings | EncoderCtcSettings
    train: TrainSettings
    distill: DistillSettings | None
    vocabulary: Vocabulary
    normalizer: Normalizer
    seed: int
    train_utterances: Sequence[Utterance]
    dev_utterances: Sequence[Utterance]
    store: Store | None = None
    dense_teacher: Model | Teacher | None = None
    hypotheses: HypothesisStore | None = None
    card: dict[str, Any] = field(default_factory=dict)  # goes into model.json
    augmented_copies: Mapping[str, WaveformAugmentation] = field(default_factory=dict)
    """Settings by name (`targets.perturbed`)."""


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Control:
    """Device, progress, stop request and processes of a run."""

    device: torch.device = CPU
    progress: Progress = SILENT
    should_stop: Callable[[], str | None] = lambda: None  # the reason to stop, or None
    ranks: Ranks = ALONE

    @property
    def run_progress(self) -> Progress:
        """Where messages that concern all processes go: silent in all but the first."""
        return self.progress if self.ranks.first else SILENT
