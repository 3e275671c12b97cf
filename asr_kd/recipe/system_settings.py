"""Settings of one teacher or one student of a recipe, and what follows from them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeGuard

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from asr_kd.config import Settings
from asr_kd.losses import DistillSettings, Shape
from asr_kd.models.settings import ConformerSettings, ModelSettings, WhisperSettings
from asr_kd.targets.storage import URL
from asr_kd.teachers.settings import EncoderCtcSettings, EncoderSettings, HeadSettings, TeacherSource
from asr_kd.training.settings import TrainSettings

SPLICES = "train.augmentation.splice_share: pieces of several utterances have no transcript and no stored targets"


class TrainedTeacher(Settings):
    """A teacher trained by this recipe, whatever its model is."""

    train: TrainSettings = TrainSettings()
    """How it is trained."""
    seed: int | None = Field(None, ge=0, lt=2**31)
    """Seed of its weights and its training; None: the recipe's. Members of an ensemble need seeds of their own."""
    folds: int | None = Field(None, ge=2, le=20)
    """Train this many teachers, each on all training speakers but those of its fold, which it labels. In reports they
    are one system, the average of all. None: one teacher, trained on all speakers."""
    further_speech: bool = False
    """Train it on the recipe's `further_speech` too, which it does not label."""

    if TYPE_CHECKING:

        @property
        def model(self) -> ConformerSettings | WhisperSettings | EncoderCtcSettings:
            """Shape of the model."""

    @model_validator(mode="after")
    def _trains_on_transcripts(self) -> "TrainedTeacher":
        if self.train.augmentation.splice_share:
            raise ValueError(f"{SPLICES}; a teacher is trained on transcripts")
        return self


class TeacherSettings(TrainedTeacher):
    """A Conformer trained by this recipe."""

    tag: ClassVar[str] = "trained"

    model: ConformerSettings
    """Shape of the model."""


class EncoderTeacherSettings(TrainedTeacher):
    """A public speech encoder with a CTC head trained by this recipe."""

    tag: ClassVar[str] = "encoder"

    encoder: EncoderSettings
    """The public encoder."""
    head: HeadSettings = HeadSettings()
    """The CTC head on it, in the students' vocabulary."""

    @property
    def model(self) -> EncoderCtcSettings:
        """Encoder and head."""
        return EncoderCtcSettings(encoder=self.encoder, head=self.head)

    @model_validator(mode="before")
    @classmethod
    def _augments_only_on_request(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("train", {}), dict):
            return given
        train = given.get("train", {})
        augmentation = train.get("augmentation", {})
        if isinstance(augmentation, dict):
            augmentation = {"silence_share": 0.0, "gain_share": 0.0, **augmentation}
        return {**given, "train": {**train, "augmentation": augmentation}}

    @model_validator(mode="after")
    def _trains_as_an_encoder_can(self) -> "EncoderTeacherSettings":
        train = self.train
        if train.init_models or train.inner_layers or train.layer_drop:
            raise ValueError("train.init_from, inner_layers and layer_drop are of Conformers, not of encoder teachers")
        if "spec_augment" in train.augmentation.model_fields_set and train.augmentation.spec_augment is not None:
            raise ValueError(
                "train.augmentation.spec_augment masks filter banks, which an encoder teacher does not read; its masks "
                "are head.masks_per_second, mask_frames, channel_masks and channel_mask_share"
            )
        return self


class ExistingTeacher(TeacherSource):
    """An existing teacher: a public model, a folder, or an ensemble, which may include teachers trained here."""

    tag: ClassVar[str] = "existing"


def _teacher_form(value: Any) -> str:
    if not isinstance(value, dict):
        return str(getattr(value, "tag", TeacherSettings.tag))
    if "source" in value:
        return ExistingTeacher.tag
    return EncoderTeacherSettings.tag if "encoder" in value else TeacherSettings.tag


AnyTeacher = Annotated[
    Annotated[TeacherSettings, Tag(TeacherSettings.tag)]
    | Annotated[EncoderTeacherSettings, Tag(EncoderTeacherSettings.tag)]
    | Annotated[ExistingTeacher, Tag(ExistingTeacher.tag)],
    Discriminator(_teacher_form),
]
"""A teacher: with a `source` or an `encoder`, or else with a `model`."""


NOT_OPENED = sys.maxsize
"""Layers and width of a teacher that a folder holds: a recipe reads no folders, and extraction counts them."""


def is_one_model(teacher: AnyTeacher) -> TypeGuard[TrainedTeacher]:
    """Whether a teacher is a model folder of this run: not from elsewhere, and not several, one a fold."""
    return isinstance(teacher, TrainedTeacher) and teacher.folds is None


def fold_names(name: str, teacher: TrainedTeacher | ExistingTeacher) -> list[str]:
    """Names of the teachers of folds: `NAME-fold-1` and so on; empty for a teacher without folds."""
    folds = teacher.folds if isinstance(teacher, TrainedTeacher) else None
    return [f"{name}-fold-{number}" for number in range(1, (folds or 0) + 1)]


class StudentStage(Settings):
    """An earlier stage of a student's training."""

    train: TrainSettings = TrainSettings()
    """How it is trained in this stage."""
    distill: DistillSettings | None = None
    """Distillation from a teacher; `null`: training on transcripts alone. An earlier stage may train hidden layers
    alone (`kd_weight: 1`, `objectives: {representation: …}`); its weights are then the mean of the last epochs."""
    teacher: str | None = None
    """Name of the teacher whose soft targets, hypotheses or hidden layers are used; may be left out when there is one
    teacher."""
    hypotheses: str | None = None
    """`distill.level: sequence`: pseudo-labels of the recipe by name, or a folder or URL that `asr-kd pseudo-label` or
    `asr-kd targets import` filled; None: the teacher's n-best."""
    further_speech: bool = False
    """Train it on the recipe's `further_speech` too; without `distill` only, as no teacher labels that speech."""

    @field_validator("hypotheses")
    @classmethod
    def _folder_as_written(cls, place: str | None) -> str | None:
        return place if place is None or URL.match(place) else str(Path(place))  # keys are of paths without a last /

    @model_validator(mode="after")
    def _has_epochs_to_distill_in(self) -> "StudentStage":
        if self.train.epochs == 0 and self.distill is not None:
            raise ValueError("train.epochs: 0 trains nothing, so distill would have no effect; leave one of them out")
        return self

    @model_validator(mode="after")
    def _further_speech_has_labels(self) -> "StudentStage":
        if self.further_speech and self.distill is not None:
            raise ValueError(
                "further_speech: no teacher labels that speech, which has transcripts alone; leave out distill or "
                "further_speech, or learn from each in a stage of its own"
            )
        return self

    @model_validator(mode="after")
    def _splices_have_targets(self) -> "StudentStage":
        if self.train.augmentation.splice_share and (not self.reads_teacher or self.reads_hypotheses):
            raise ValueError(f"{SPLICES}; they need distill.targets: dense, and no objective of hypotheses")
        if self.train.augmentation.splice_share and self.distill and not self.distill.terms.keys() - {"pooled_kl"}:
            raise ValueError(f"{SPLICES}; pooled_kl alone leaves them out: add another objective")
        return self

    @property
    def learns_from_teacher(self) -> bool:
        """Whether any of its loss comes from a teacher."""
        return self.distill is not None and (self.distill.needs_targets or self.distill.needs_hypotheses)

    @property
    def needs_teacher(self) -> bool:
        """Whether it needs one of the recipe's teachers: not when it is trained on imported hypotheses or on itself."""
        own_hypotheses = self.reads_hypotheses and self.hypotheses is None
        return own_hypotheses or (self.distill is not None and self.distill.needs_targets)

    @property
    def reads_store(self) -> bool:
        """Whether it needs stored soft targets."""
        return self.distill is not None and self.distill.needs_targets and self.distill.targets == "stored"

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher runs in training."""
        return self.distill is not None and self.distill.needs_targets and self.distill.targets == "dense"

    @property
    def learns_untranscribed(self) -> bool:
        """Whether it also learns from utterances without a transcript."""
        return self.distill is not None and self.distill.untranscribed

    @property
    def reads_hypotheses(self) -> bool:
        """Whether it learns from hypotheses, its teacher's or imported ones."""
        return self.distill is not None and self.distill.needs_hypotheses


class StudentSettings(StudentStage):
    """A student; without `distill` it is trained on transcripts alone."""

    model: ModelSettings
    """Shape of the model."""
    stages: tuple[StudentStage, ...] = ()
    """Earlier stages of its training, in order: each continues from the weights of the one before, and the student
    itself from the last. Only the first may have `train.init_from`."""
    baseline: str | None = None
    """The student without a teacher that the report compares it with; `student-kd` and `student-hard` are a pair."""
    seed: int | None = Field(None, ge=0, lt=2**31)
    """Seed of its weights and its training; None: the recipe's."""
    transcript_share: float = Field(1.0, gt=0, le=1)
    """Share of the training utterances whose transcripts it uses, the same ones as in
    `hypotheses.NAME.transcript_share`. The others count as untranscribed: they are used by a student with
    `distill.untranscribed`, or one that needs no transcripts (`kd_weight: 1`). For comparing pseudo-labels with few
    transcripts."""

    @model_validator(mode="after")
    def _fits_together(self) -> "StudentSettings":
        if self.distill is not None and not self.distill.trains_head:
            raise ValueError(
                "distill: kd_weight 1 with hidden layers alone would leave the output layer random; set kd_weight "
                "below 1, add an objective of posteriors or hypotheses, or make this one of its stages"
            )
        if any(stage.train.init_models for stage in [*self.stages, self][1:]):
            raise ValueError("train.init_from: a stage goes on from the one before; only the first may have it")
        return self

    def objective_problems(self, teacher: AnyTeacher | None, name: str) -> Iterator[str]:
        """Yield which objectives do not fit the student, or the teacher of this name that it needs."""
        if self.distill is None:
            return
        if self.reads_teacher and isinstance(teacher, TrainedTeacher) and teacher.folds is not None:
            yield (
                "distill.targets: dense needs a teacher that is one model; for a teacher of folds use stored targets"
            )
        layers, width = layers_and_width(teacher) if teacher is not None else (None, None)
        shape = Shape(
            blank_id=0,  # the vocabulary is not known yet
            width=self.model.width,
            layers=self.model.num_layers,
            teacher_width=width,
            teacher_layers=layers,
            streaming=self.model.streaming is not None,
        )
        for key, term in self.distill.terms.items():
            needs_posteriors = not term.teacher_layers and (term.term.needs_targets or term.term.needs_hypotheses)
            if teacher is not None and has_layers_only(teacher) and needs_posteriors:
                yield (
                    f"distill, {key}: the teacher {name!r} is an encoder without a head and has hidden layers only; "
                    "use the objective `representation`, or another teacher"
                )
            problem = term.incompatibility(shape)
            if problem is not None:
                yield f"distill, {key}: {problem}"
        if self.train.inner_layers and not self.distill.trains_inner_heads:
            yield (
                f"distill.inner_heads: {self.distill.inner_heads} leaves the heads at train.inner_layers nothing to "
                "learn from"
            )

    def in_stages(self, name: str) -> "dict[str, StudentSettings]":
        """The student by the name of each stage of its training, `NAME-stage-1` and so on, and the last by its own."""
        earlier = {
            f"{name}-stage-{number}": self.model_copy(
                update={
                    **{key: getattr(stage, key) for key in StudentStage.model_fields},
                    "stages": (),
                    "baseline": None,
                }
            )
            for number, stage in enumerate(self.stages, start=1)
        }
        return {**earlier, name: self}


def layers_and_width(teacher: AnyTeacher) -> tuple[int | None, int | None]:
    """Layers and width of a teacher's model; `NOT_OPENED` of one in a folder, None where the layers cannot be read."""
    if isinstance(teacher, EncoderTeacherSettings) and teacher.folds is None:
        return NOT_OPENED, NOT_OPENED
    if is_one_model(teacher):
        return teacher.model.num_layers, teacher.model.width
    if isinstance(teacher, ExistingTeacher) and (teacher.is_local or teacher.is_encoder):
        return NOT_OPENED, NOT_OPENED
    return None, None


def has_layers_only(teacher: AnyTeacher) -> bool:
    """Whether a teacher has no posteriors: a speech encoder without a head."""
    return isinstance(teacher, ExistingTeacher) and teacher.is_encoder


def nbest_task_name(teacher: str) -> str:
    """Name of the task that extracts a teacher's n-best; that of its soft targets has the teacher's name."""
    return f"{teacher}-hypotheses"


def transcripts_task_names(hypotheses: str) -> tuple[str, str]:
    """Names of the tasks that transcribe with Whisper for pseudo-labels: the training set, and the evaluation sets."""
    return f"{hypotheses}-transcripts", f"{hypotheses}-evaluation"
