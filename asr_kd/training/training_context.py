"""Training job (everything that decides the result), control (where it runs) and context (what the loop needs)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from asr_kd.corpora.manifest import Utterance
from asr_kd.distributed import ALONE, Ranks
from asr_kd.errors import TrainingError, examples
from asr_kd.features.augment import Sound
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
from asr_kd.training.batch import Unreadable
from asr_kd.training.batch_sampler import DurationBatchSampler
from asr_kd.training.checkpoint import TrainingState
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
    augmented_copies: Mapping[str, Sound] = field(default_factory=dict)  # settings by name (`targets.perturbed`)


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


@dataclass(frozen=True)
class TrainingContext:
    """Everything that the training loop needs besides model, objective and settings."""

    name: str
    key: str  # cache key of the job; a checkpoint with another key is refused
    folder: Path
    vocabulary: Vocabulary
    seed: int
    batches: DurationBatchSampler
    dev_references: dict[str, str]
    should_checkpoint: Callable[[], bool]
    log_scalars: Callable[[dict[str, float], int], None]
    control: Control = field(default_factory=Control)
    dense_teacher: Model | Teacher | None = None
    trains_head: bool = True  # False: hidden layers alone are trained, so dev scores mean nothing


def note_nonfinite(state: TrainingState, ids: Sequence[str], run: TrainingContext, most_in_a_row: int) -> None:
    """Count and report a skipped step; `ids` are those of the global batch.

    Raises:
        TrainingError: more than `most_in_a_row` of them.
    """
    state.nonfinite_row += 1
    state.nonfinite_total += 1
    named = examples(ids)
    run.control.run_progress.message(
        f"{run.name}: step {state.step} is not finite and was left out (utterances {named})"
    )
    if state.nonfinite_row > most_in_a_row:
        raise TrainingError(
            f"{state.nonfinite_row} steps in a row are not finite; the last had utterances {named}",
            where=f"training of {run.name}",
            expected=f"at most {most_in_a_row} in a row",
            remedy="Lower learning_rate, or look at those utterances with `asr-kd check`; the checkpoint holds",
        )


def note_unreadable(
    state: TrainingState, unreadable: Sequence[Unreadable], run: TrainingContext, max_share: float
) -> None:
    """Count and report each unreadable utterance once.

    Raises:
        TrainingError: more than `max_share` of the training set.
    """
    known = state.unreadable
    for id_, audio, reason in unreadable:
        if id_ not in known:
            known[id_] = {"audio": audio, "reason": reason}
            run.control.run_progress.message(f"{run.name}: left out {id_}: {reason}")
    share = len(known) / max(run.batches.num_utterances, 1)
    if share > max_share:
        first = next(iter(known.values()))["reason"]
        raise TrainingError(
            f"{len(known)} utterances ({100 * share:.1f} %) cannot be read; the first: {first}",
            where=f"training of {run.name}",
            expected=f"at most {100 * max_share:g} % (max_bad_share)",
            remedy="Look at the corpus with `asr-kd check`",
        )
