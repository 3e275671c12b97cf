"""Settings of a recipe file, put together from those of its parts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from asr_kd.config import Settings, UserPath, apply_overrides, load_yaml, parse_settings
from asr_kd.corpora.settings import CorpusSettings, FolderSettings, OwnSettings, UntranscribedSettings
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.export.export_bundle import ExportSettings
from asr_kd.models.settings import Context
from asr_kd.posteriors.measures import POOLED
from asr_kd.recipe.packaged_recipes import find_recipe
from asr_kd.recipe.system_settings import (
    AnyTeacher,
    ExistingTeacher,
    StudentSettings,
    TrainedTeacher,
    fold_names,
    is_one_model,
    layers_and_width,
    nbest_task_name,
)
from asr_kd.targets.bridge import BridgeSettings
from asr_kd.targets.extraction_checks import SanitySettings
from asr_kd.targets.nbest import NbestSettings
from asr_kd.targets.pseudo_labelling import PseudoLabelSettings
from asr_kd.targets.settings import TargetSettings
from asr_kd.teachers.settings import parse_source
from asr_kd.text.settings import VocabularySettings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RecipeExport(ExportSettings):
    """Which models are exported, and how."""

    models: tuple[str, ...] = ()
    """Names of students; empty exports every streaming one."""
    verify_utterances: int = Field(8, ge=1)
    """Dev utterances that a bundle is verified on, spread from the shortest to the longest."""
    contexts: tuple[Context, ...] = ()
    """Several latencies of one dynamic-chunk student: a bundle for each (chunk, left context), in frames of 40 ms, in
    folders of their own below its name; one is written there itself. Empty: `context`."""


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
        problem = next(self._problems(), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """Yield what does not fit together; every check may rely on those before it."""
        yield from self._name_problems()
        for name, teacher in self.teachers.items():
            yield from self._teacher_problems(name, teacher)
        for name, student in self.trainings.items():
            yield from self._student_problems(name, student)
        systems: dict[str, AnyTeacher | StudentSettings] = {**self.teachers, **self.students}
        for name, system in {**systems, **self.trainings}.items():
            if isinstance(system, ExistingTeacher):
                continue
            inner, layers = system.train.inner_layers, system.model.num_layers
            if any(not 1 <= layer < layers for layer in inner):
                yield (
                    f"{name}: train.inner_layers {list(inner)} must lie from 1 to {layers - 1}, below the last of its "
                    f"{layers} layers"
                )
            for each in sorted(set(system.train.augmentation.augmented_copies) - set(self.targets.perturbed)):
                known = ", ".join(self.targets.perturbed) or "none"
                yield f"{name}: train.augmentation.augmented_copies names {each!r}; targets.perturbed has {known}"
        yield from self._corpus_problems()
        for name in self.export.models:
            if name not in systems:
                yield f"export.models names {name!r}; known: {', '.join(systems)}"
            elif name in self.teachers and not is_one_model(self.teachers[name]):
                yield f"export.models names {name!r}, which this recipe does not train as one model"

    def _name_problems(self) -> Iterator[str]:
        """Systems, pseudo-labels, and the tasks that are named after them need names of their own."""
        taken: dict[str, str] = {}
        owners = (
            *((name, "a teacher") for name in self.teachers),
            *((name, "a student") for name in self.students),
            *((name, "pseudo-labels") for name in self.hypotheses),
            *(
                (fold, f"a fold's teacher of {name!r}")
                for name, t in self.teachers.items()
                for fold in fold_names(name, t)
            ),
            *(
                (s, f"a stage of {name!r}")
                for name, each in self.students.items()
                for s in each.in_stages(name)
                if s != name
            ),
        )
        for name, owner in owners:
            if name in taken:
                yield f"{name!r} is the name of {taken[name]} and of {owner}; rename one"
            taken[name] = owner
        extracted = {*filter(self.target_speeds, self.teachers), *self.hypotheses}
        for name in filter(self.needs_nbest, self.teachers):
            if (task := nbest_task_name(name)) in extracted:
                yield f"{task!r} is the name of {taken[task]} and of the task for the n-best of {name!r}; rename one"

    def _corpus_problems(self) -> Iterator[str]:
        """Audio without transcripts needs students that learn from it, and they need some."""
        trains_on_them = [name for name, student in self.trainings.items() if student.learns_untranscribed]
        if self.untranscribed is not None and not trains_on_them:
            yield "untranscribed: no student has distill.untranscribed: true, so it would not be used"
        has_such = self.untranscribed is not None or isinstance(self.corpus, OwnSettings)
        for name in trains_on_them:
            if not has_such and self.trainings[name].transcript_share == 1:
                yield (
                    f"students.{name}.distill.untranscribed: everything in the corpus is transcribed; name folders of "
                    "further audio under untranscribed"
                )
        if not isinstance(self.corpus, FolderSettings) or self.corpus.dev:
            return
        # A dev set without transcripts needs pseudo-labels, which are made after the teachers are trained.
        if not self.hypotheses:
            yield (
                "corpus.dev is not given and nothing under hypotheses transcribes a held-out part; give transcribed "
                "manifests as corpus.dev, or pseudo-labels of Whisper as hypotheses"
            )
        for name, teacher in self.teachers.items():
            if isinstance(teacher, TrainedTeacher):
                yield f"teachers.{name} is trained on transcripts, and the corpus has none: give corpus.dev"

    def _teacher_problems(self, name: str, teacher: AnyTeacher) -> Iterator[str]:
        """Members of an ensemble must be there; only single models of this project have layers to store."""
        if isinstance(teacher, ExistingTeacher):
            trained = [
                model
                for other, one in self.teachers.items()
                if not isinstance(one, ExistingTeacher)
                for model in fold_names(other, one) or [other]
            ]
            for member in teacher.members:
                kind, place, _ = parse_source(member.source)
                if kind == "recipe" and place not in trained:
                    yield (
                        f"teachers.{name}.source names {member.source!r}; teachers that this recipe trains: "
                        f"{', '.join(trained) or 'none'}"
                    )
        if not self.target_speeds(name):
            return
        if fold_names(name, teacher):
            if self.target_layers(name):
                yield (
                    f"teachers.{name}.folds: the hidden layers of teachers trained separately are not comparable; "
                    "leave targets.layers and the objective `representation` out, or the folds"
                )
        elif self.targets.layers:  # those that students match are checked with them
            layers = layers_and_width(teacher)[0]
            if layers is None:
                yield (
                    "targets.layers needs teachers that are one model of this project's own, trained here or `local:`, "
                    f"and {name!r} is not"
                )
            elif self.targets.layers[-1] > layers:
                yield f"targets.layers {list(self.targets.layers)} must lie from 1 to {layers}, the layers of {name!r}"

    def _student_problems(self, name: str, student: StudentSettings) -> Iterator[str]:
        """Its teacher and baseline must be there, and its objectives must fit both models."""
        known = ", ".join(self.teachers) or "none"
        if student.teacher is not None and student.teacher not in self.teachers:
            yield f"students.{name}.teacher is {student.teacher!r}; known: {known}"
        if student.baseline == name:
            yield f"students.{name}.baseline is that student itself"
        others = [other for other, settings in self.students.items() if not settings.learns_from_teacher]
        if student.baseline is not None and student.baseline not in others:
            yield (
                f"students.{name}.baseline is {student.baseline!r}; students without a teacher: "
                f"{', '.join(others) or 'none'}"
            )
        if student.hypotheses is not None and not student.reads_hypotheses:
            yield f"students.{name}.hypotheses is read with distill.level: sequence only"
        teacher = None
        if student.needs_teacher:
            if not self.teachers:
                yield f"students.{name}.distill needs a teacher, and the recipe has none"
            if student.teacher is None and len(self.teachers) > 1:
                yield f"students.{name}.teacher must name one of: {known}"
            teacher = self.teachers[self.teacher_of(student)]
        yield from (
            f"students.{name}.{problem}"
            for problem in student.objective_problems(teacher, self.teacher_of(student) if teacher else "")
        )

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
