"""Settings of a recipe file, put together from those of its parts."""

import re
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from asr_kd.config import Settings, UserPath, apply_overrides, load_yaml, parse_settings
from asr_kd.corpora.settings import CorpusSettings, FurtherSpeechSettings, UntranscribedSettings
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.export.export_bundle import ExportSettings
from asr_kd.models.settings import SavedContext
from asr_kd.posteriors.measures import POOLED
from asr_kd.recipe.packaged_recipes import find_recipe
from asr_kd.recipe.recipe_checks import problems
from asr_kd.recipe.system_settings import (
    AnyTeacher,
    StudentSettings,
    TrainedTeacher,
)
from asr_kd.targets.bridge import BridgeSettings
from asr_kd.targets.extraction_checks import SanitySettings
from asr_kd.targets.nbest import NbestSettings
from asr_kd.targets.pseudo_labelling import PseudoLabelSettings
from asr_kd.targets.settings import TargetSettings
from asr_kd.text.settings import VocabularySettings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RecipeExport(ExportSettings):
    """Which models are exported, and how."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"models"})  # on the bundle of one model

    models: tuple[str, ...] = ()
    """Names of students; empty exports every streaming one."""
    verify_utterances: int = Field(8, ge=1)
    """Dev utterances that a bundle is verified on, spread from the shortest to the longest."""
    contexts: tuple[SavedContext, ...] = ()
    """Several latencies of one student: a bundle for each (chunk, left context) or (chunk, left context, right
    context), in frames of 40 ms, in folders of their own below its name; one is written there itself. Empty:
    `context`."""


class Recipe(Settings):
    """A whole run."""

    name: str
    """Name of the run in reports and bundles."""
    work_dir: UserPath
    """Folder for everything the run writes; relative to the current folder."""
    seed: int = Field(1, ge=0, lt=2**31)
    """Seed of everything random, together with the number of the training step."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU when there is one."""
    threads: int | None = Field(None, ge=1, le=256)
    """Threads of the numerical library; None leaves its own choice."""
    corpus: CorpusSettings
    """The speech; `kind` selects the corpus."""
    untranscribed: UntranscribedSettings | None = None
    """Further audio for students with `distill.untranscribed`, without transcripts; null: none."""
    further_speech: FurtherSpeechSettings | None = None
    """Further transcribed speech for teachers and students with `further_speech: true`; null: none."""
    vocabulary: VocabularySettings = VocabularySettings()
    """Tokens of the models."""
    teachers: dict[str, AnyTeacher] = Field(default={})
    """Teachers by name: trained here (`model` or `encoder`) or existing (`source`)."""
    bridge: BridgeSettings = BridgeSettings()
    """Conversion of existing teachers' frames and symbols to the students'."""
    sanity: SanitySettings = SanitySettings()
    """Check of a teacher's WER before it labels the training set."""
    targets: TargetSettings = TargetSettings()
    """Soft targets: what is stored of a teacher's posteriors."""
    nbest: NbestSettings = NbestSettings()
    """Extraction of a teacher's n-best, for students with `distill.level: sequence`."""
    hypotheses: dict[str, PseudoLabelSettings] = Field(default={})
    """Pseudo-labels of the training set by name, made by Whisper in the stage extract; students name them in
    `hypotheses`."""
    store_url: str | None = None
    """Folder or fsspec URL (s3://…, gs://…) for soft targets and hypotheses; None: inside work_dir."""
    students: dict[str, StudentSettings] = Field(min_length=1)
    """Students by name, at least one. The report compares `student-hard` with `student-kd`."""
    evaluate: EvaluationSettings = EvaluationSettings()
    """Scoring and timing of systems."""
    export: RecipeExport = RecipeExport()
    """Export of students."""
    extras: Any = None
    """Ignored: a place for YAML anchors that the rest of the file refers to."""

    @field_validator("teachers", "students", "hypotheses")
    @classmethod
    def _names_are_folders(cls, named: dict[str, Any]) -> dict[str, Any]:
        for name in named:
            if not NAME.fullmatch(name):
                raise ValueError(f"the name {name!r} must be letters, digits, '.', '_' and '-' (it becomes a folder)")
        return named

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        problem = next(problems(self), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    def labels_untranscribed(self, teacher: str) -> bool:
        """Whether a student is trained on this teacher's targets of the audio without transcripts."""
        students = [each for each in self.trainings.values() if each.needs_teacher and each.learns_untranscribed]
        return self.untranscribed is not None and any(self.teacher_of(each) == teacher for each in students)

    def teacher_of(self, student: StudentSettings) -> str:
        """The name of a student's teacher: the one it names, or the only one."""
        return student.teacher or next(iter(self.teachers))

    @property
    def trained_on_transcripts(self) -> list[str]:
        """Names of the models that are trained on transcripts."""
        trained = [name for name, teacher in self.teachers.items() if isinstance(teacher, TrainedTeacher)]
        students = self.trainings.items()
        return trained + [name for name, each in students if each.distill is None or each.distill.needs_references]

    @property
    def trainings(self) -> dict[str, StudentSettings]:
        """All trainings of students by name: each student, and before it the earlier stages of its training."""
        return {key: stage for name, student in self.students.items() for key, stage in student.in_stages(name).items()}

    def seed_of(self, trained: TrainedTeacher | StudentSettings) -> int:
        """The seed of a model's weights and training, and of a teacher's folds: its own, or the recipe's."""
        return self.seed if trained.seed is None else trained.seed

    def _readers(self, teacher: str) -> list[StudentSettings]:
        """Trainings that read this teacher's stored soft targets."""
        return [each for each in self.trainings.values() if each.reads_store and self.teacher_of(each) == teacher]

    def target_speeds(self, teacher: str) -> tuple[float, ...]:
        """Speeds at which this teacher's soft targets are needed: those its students train at; none, no store."""
        return tuple(sorted({s for each in self._readers(teacher) for s in each.train.augmentation.speeds}))

    def needs_pooled(self, teacher: str) -> bool:
        """Whether a student learns from this teacher's posteriors pooled over the tokens of the transcript."""
        return any(each.distill is not None and POOLED in each.distill.needs_arrays for each in self._readers(teacher))

    def target_layers(self, teacher: str) -> tuple[int, ...]:
        """Hidden layers of this teacher to store: those of the recipe, and those that its students match."""
        distill = [each.distill for each in self._readers(teacher) if each.distill is not None]
        layers = {layer for each in distill for layer in each.teacher_layers}
        return tuple(sorted({*self.targets.layers, *layers}))

    def needs_nbest(self, teacher: str) -> bool:
        """Whether a student learns from this teacher's own hypotheses."""
        return any(
            student.reads_hypotheses and student.hypotheses is None and self.teacher_of(student) == teacher
            for student in self.trainings.values()
        )


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read and check a recipe, a file or the name of one that comes with asr-kd; nothing runs before this succeeds.

    Raises:
        RecipeError: see `asr_kd.config`.
    """
    path = find_recipe(path)
    return parse_settings(Recipe, apply_overrides(load_yaml(path), overrides), path)
