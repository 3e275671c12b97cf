"""What decides what comes out of a training run. Runs nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asr_kd.corpora.manifest import Utterance
from asr_kd.features.waveform_augment import Sound
from asr_kd.files import sha256_of
from asr_kd.losses import DistillSettings
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.store import Store
from asr_kd.teachers.encoder_settings import EncoderCtcSettings
from asr_kd.text.normalize import Normalizer
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.settings import TrainSettings
from asr_kd.training.warm_start import warm_start_sha256


@dataclass(frozen=True)
class TrainingJob:
    """Everything that decides what comes out of a training run."""

    name: str
    model: ConformerSettings | EncoderCtcSettings
    train: TrainSettings
    distill: DistillSettings | None
    vocabulary: Vocabulary
    normalizer: Normalizer
    seed: int
    train_utterances: Sequence[Utterance]
    dev_utterances: Sequence[Utterance]
    store: Store | None = None
    dense_teacher: Conformer | None = None
    hypotheses: HypothesisStore | None = None
    card: dict[str, Any] = field(default_factory=dict)  # goes into model.json
    versions: Mapping[str, Sound] = field(default_factory=dict)  # of recordings, by name, that training may hear

    def hash(self) -> str:
        """Changes when the result would."""
        utterances = (*self.train_utterances, *self.dev_utterances)
        listed = [(u.id, str(u.audio), u.duration, u.text, *([u.start] if u.start else [])) for u in utterances]
        distill = self.distill.model_dump(mode="json") if self.distill else None
        parts = [self.model.model_dump(mode="json"), self.train.model_dump(mode="json"), distill, self.seed]
        taught = [self.hypotheses.sha256] if self.hypotheses is not None else []
        used = {name: self.versions[name].model_dump(mode="json") for name in self.train.augmentation.versions}
        further = [*taught, *warm_start_sha256(self.train), *([used] if used else [])]
        return sha256_of([parts, self.normalizer, self.vocabulary.sha256, listed, *further])
