"""The teachers of a recipe, whether it trains them or they exist already: opened, identified, bridged to its students.

What is known of an existing teacher is written down once, so that later stages need not open it to tell who it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_kd.errors import CheckpointError
from asr_kd.files import read_json, write_json
from asr_kd.models.weights import WEIGHTS
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.folds import fold_of_training
from asr_kd.recipe.layout import VOCABULARY, corpus_hashes, existing, model_sha256, teacher_folder
from asr_kd.recipe.stage import StageTask
from asr_kd.recipe.system_settings import AnyTeacher, ExistingTeacher, fold_names, is_one_model
from asr_kd.targets.bridge import bridge
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.ensemble import OutOfFold
from asr_kd.teachers.opening import open_local, open_teacher_source
from asr_kd.teachers.settings import parse_source
from asr_kd.text.vocabulary import Vocabulary

IDENTITY = "teacher.json"
"""What is written of a teacher that is not one model of this run."""


@dataclass(frozen=True)
class KnownTeacher:
    """A teacher by what is written of it: everything but its voice. See `teachers.base.Teacher`."""

    name: str
    sha256: str
    vocabulary: Vocabulary
    frame_shift_ms: float
    frame_offset_ms: float
    features: Mapping[str, Any]

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """Never: it would have to be opened."""
        raise TypeError(f"the teacher {self.name!r} is described here, not open")


def teacher_task(context: RunContext, name: str, settings: AnyTeacher) -> StageTask:
    """Finds (fetches, where there is a network) a teacher that is not one model of this run; writes down who it is."""

    def run(folder: Path) -> None:
        teacher = _open(context, name, torch.device("cpu"))
        teacher.vocabulary.save(folder / VOCABULARY)
        description = {
            "name": teacher.name,
            "sha256": teacher.sha256,
            "vocabulary_sha256": teacher.vocabulary.sha256,
            "frame_shift_ms": teacher.frame_shift_ms,
            "frame_offset_ms": teacher.frame_offset_ms,
            "features": dict(teacher.features),
        }
        write_json(folder / IDENTITY, description)
        context.progress.message(
            f"  {teacher.name}: {len(teacher.vocabulary)} symbols, a frame every {teacher.frame_shift_ms:g} ms, "
            f"weights {teacher.sha256[:12]}…"
        )

    folder = teacher_folder(context, name)
    return StageTask(
        "teacher",
        name,
        context.work_dir,
        folder,
        settings=settings.model_dump(mode="json"),
        inputs=lambda: _state_of(context, name),
        run=run,
        results=(folder / IDENTITY, folder / VOCABULARY),
    )


def teacher_sha256(context: RunContext, name: str) -> str:
    """The identity of a teacher: the hash of its weights and of what else decides what it says.

    Raises:
        CheckpointError: the teacher stage has not run.
    """
    if is_one_model(context.recipe.teachers[name]):
        return model_sha256(teacher_folder(context, name) / "model")
    return known_teacher(context, name).sha256


def known_teacher(context: RunContext, name: str) -> KnownTeacher:
    """What the teacher stage wrote of a teacher that is not one model of this run.

    Raises:
        CheckpointError: it has not run, or its file is damaged.
    """
    folder = teacher_folder(context, name)
    path = existing(folder / IDENTITY, "teacher")
    try:
        description, vocabulary = read_json(path), Vocabulary.load(folder / VOCABULARY)
        if description.pop("vocabulary_sha256", None) != vocabulary.sha256:
            raise ValueError(f"{VOCABULARY} beside it is not the vocabulary that it names")
        return KnownTeacher(vocabulary=vocabulary, **description)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"cannot be read ({error})", where=path, remedy="Run the teacher stage again with --force"
        ) from error


def open_teacher(context: RunContext, name: str) -> Teacher:
    """A teacher of the recipe, opened, in its own vocabulary and on its own frames.

    Raises:
        CheckpointError: the teacher stage has not run, or has found another one under this name.
    """
    found = teacher_sha256(context, name)  # before anything is fetched
    if is_one_model(context.recipe.teachers[name]):
        return open_local(teacher_folder(context, name) / "model", context.device)
    teacher = _open(context, name, context.device)
    if teacher.sha256 != found:
        raise CheckpointError(
            "is not the teacher that the teacher stage found: its weights or settings have changed since",
            where=f"teachers.{name}",
            remedy="Run the teacher stage first (leave --from out)",
        )
    return teacher


def bridged(context: RunContext, teacher: Teacher, vocabulary: Vocabulary) -> Teacher:
    """The teacher as the students of the recipe need it."""
    return bridge(teacher, vocabulary, settings=context.recipe.bridge)


def bridged_sha256(context: RunContext, name: str, vocabulary: Vocabulary) -> str:
    """The identity that the soft targets of a teacher carry; nothing is opened."""
    if is_one_model(context.recipe.teachers[name]):
        return teacher_sha256(context, name)
    return bridged(context, known_teacher(context, name), vocabulary).sha256


def _open(context: RunContext, name: str, device: torch.device) -> Teacher:
    """A teacher from elsewhere, or those of the folds as one."""
    settings = context.recipe.teachers[name]
    if isinstance(settings, ExistingTeacher):
        return open_teacher_source(
            settings.resolved(lambda trained: teacher_folder(context, trained) / "model"), device
        )
    models = [teacher_folder(context, fold) / "model" for fold in fold_names(name, settings)]
    members = [open_local(model, device) for model in models]
    return OutOfFold(members, fold_of_training(context, settings), f"{name} of {len(members)} folds")


def _state_of(context: RunContext, name: str) -> list[Any]:
    """What tells that a teacher that is not one model of this run may have changed."""
    settings = context.recipe.teachers[name]
    if isinstance(settings, ExistingTeacher):
        return [_state_of_source(context, member.source) for member in settings.members]
    models = [model_sha256(teacher_folder(context, fold) / "model") for fold in fold_names(name, settings)]
    return [*models, *corpus_hashes(context, "train", spelling=False)]


def _state_of_source(context: RunContext, source: str) -> Any:
    """What tells that a source may have changed: of a folder its files, of a teacher trained here its weights."""
    kind, place, _ = parse_source(source)
    if kind == "recipe":
        return model_sha256(teacher_folder(context, place) / "model")
    folder = Path(place).expanduser()
    if kind == "local":
        return model_sha256(folder) if (folder / WEIGHTS).is_file() else None
    if not folder.is_dir():
        return None
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
