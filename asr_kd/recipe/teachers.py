"""The teachers of a recipe, trained here or existing: opened, identified, bridged, assigned to folds; model sources.

The description of an existing teacher is written once, so that later stages identify the teacher without opening it.

Cache keys hold the content of a folder that a recipe names as a model, and not its path: a folder that is moved repeats
no finished work, and other weights under the same path do. A name of the hub stands in the key as it is. The content is
recorded in the work_dir, so that finished stages are also found where the folder is missing.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_kd.config import user_path
from asr_kd.corpora.an4 import person_of
from asr_kd.corpora.corpus import fold_of_utterances, read_prepared
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.settings import An4Settings
from asr_kd.errors import AsrKdError, CheckpointError
from asr_kd.files import read_json, sha256_of, sha256_of_file, write_json
from asr_kd.models.settings import WhisperSettings
from asr_kd.models.weights import WEIGHTS
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.recipe.context import VOCABULARY, RunContext, existing, model_sha256
from asr_kd.recipe.stage import StageTask
from asr_kd.recipe.system_settings import (
    AnyTeacher,
    EncoderTeacherSettings,
    ExistingTeacher,
    TrainedTeacher,
    fold_names,
    is_one_model,
)
from asr_kd.targets.bridge import bridge
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.ensemble import OutOfFold, open_teacher_source
from asr_kd.teachers.huggingface_encoder import local_copy
from asr_kd.teachers.local import LocalTeacher
from asr_kd.teachers.settings import EncoderCtcSettings, parse_source
from asr_kd.text.vocabulary import Vocabulary

IDENTITY = "teacher.json"
"""Description of a teacher that is not one model of this run."""


@dataclass(frozen=True)
class DescribedTeacher:
    """Description of a teacher that is not open; see `teachers.base.Teacher`."""

    name: str
    sha256: str
    vocabulary: Vocabulary
    frame_shift_ms: float
    frame_offset_ms: float
    features: Mapping[str, Any]

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        raise TypeError(f"the teacher {self.name!r} is described here, not open")


def teacher_task(context: RunContext, name: str, settings: AnyTeacher) -> StageTask:
    """Task that finds or downloads a teacher that is not one model of this run, and writes its description."""

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

    folder = context.teacher_folder(name)
    return StageTask(
        "teacher",
        name,
        context.work_dir,
        folder,
        settings=_key_settings(context, settings),
        inputs=lambda: _state_of(context, name),
        run=run,
        results=(folder / IDENTITY, folder / VOCABULARY),
    )


def _key_settings(context: RunContext, settings: AnyTeacher) -> dict[str, Any]:
    """Return the settings as part of the cache key; folders stand there by their content."""
    plain = settings.model_dump(mode="json")
    if isinstance(settings, ExistingTeacher):
        if isinstance(plain["source"], str):
            plain["source"] = source_in_key(context, plain["source"])
        else:
            plain["source"] = [{**one, "source": source_in_key(context, one["source"])} for one in plain["source"]]
    return plain


def teacher_sha256(context: RunContext, name: str) -> str:
    """The identity of a teacher, of all that decides its posteriors; a CheckpointError before its stage has run."""
    if is_one_model(context.recipe.teachers[name]):
        return model_sha256(context.teacher_folder(name) / "model")
    return described_teacher(context, name).sha256


def described_teacher(context: RunContext, name: str) -> DescribedTeacher:
    """Read the description of a teacher that is not one model of this run.

    Raises:
        CheckpointError: it has not run, or its file is damaged.
    """
    folder = context.teacher_folder(name)
    path = existing(folder / IDENTITY, "teacher")
    try:
        description, vocabulary = read_json(path), Vocabulary.load(folder / VOCABULARY)
        if description.pop("vocabulary_sha256", None) != vocabulary.sha256:
            raise ValueError(f"{VOCABULARY} beside it is not the vocabulary that it names")
        return DescribedTeacher(vocabulary=vocabulary, **description)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"cannot be read ({error})", where=path, remedy="Run the teacher stage again with --force"
        ) from error


def open_teacher(context: RunContext, name: str) -> Teacher:
    """Open a teacher of the recipe, in its own vocabulary and on its own frames.

    Raises:
        CheckpointError: the teacher stage has not run, or has found another one under this name.
    """
    found = teacher_sha256(context, name)  # before anything is downloaded
    if is_one_model(context.recipe.teachers[name]):
        return LocalTeacher(context.teacher_folder(name) / "model", context.device, encoder=encoder_of(context, name))
    teacher = _open(context, name, context.device)
    if teacher.sha256 != found:
        raise CheckpointError(
            "is not the teacher that the teacher stage found: its weights or settings have changed since",
            where=f"teachers.{name}",
            remedy="Run the teacher stage first (asr-kd train)",
        )
    return teacher


def encoder_of(context: RunContext, name: str) -> str | None:
    """The place of the encoder of a teacher that the recipe trains on one; it may have moved since."""
    settings = context.recipe.teachers.get(name)
    return settings.encoder.source if isinstance(settings, EncoderTeacherSettings) else None


def bridged_sha256(context: RunContext, name: str, vocabulary: Vocabulary) -> str:
    """The identity of a bridged teacher, as its soft targets carry it; the teacher is not opened."""
    if is_one_model(context.recipe.teachers[name]):
        return teacher_sha256(context, name)
    return bridge(described_teacher(context, name), vocabulary, settings=context.recipe.bridge).sha256


def _open(context: RunContext, name: str, device: torch.device) -> Teacher:
    """Open an existing teacher, or those of the folds as one."""
    settings = context.recipe.teachers[name]
    if isinstance(settings, ExistingTeacher):
        return open_teacher_source(settings.resolved(lambda trained: context.teacher_folder(trained) / "model"), device)
    models = [context.teacher_folder(fold) / "model" for fold in fold_names(name, settings)]
    members = [LocalTeacher(model, device, encoder=encoder_of(context, name)) for model in models]
    return OutOfFold(members, fold_of_training(context, settings), f"{name} of {len(members)} folds")


def _state_of(context: RunContext, name: str) -> list[Any]:
    """Data that changes when a teacher that is not one model of this run may have changed."""
    settings = context.recipe.teachers[name]
    if isinstance(settings, ExistingTeacher):
        return [_state_of_source(context, member.source) for member in settings.members]
    models = [model_sha256(context.teacher_folder(fold) / "model") for fold in fold_names(name, settings)]
    return [*models, *context.corpus_hashes("train", spelling=False)]


def _state_of_source(context: RunContext, source: str) -> Any:
    """Data that changes when a source may have changed: files of a folder, weights of a teacher trained here."""
    kind, place, _ = parse_source(source)
    if kind == "recipe":
        return model_sha256(context.teacher_folder(place) / "model")
    return source_hashes(context, [source]) or None


def fold_of_training(context: RunContext, teacher: TrainedTeacher) -> dict[str, int]:
    """Fold of each training utterance by its id, from 0.

    Raises:
        CorpusError: the corpus is not prepared, or has fewer speakers than the teacher has folds.
    """
    corpus = read_prepared(context.work_dir)
    people = person_of if isinstance(context.recipe.corpus, An4Settings) else str
    return fold_of_utterances(corpus.train, teacher.folds or 1, context.recipe.seed_of(teacher), people)


def utterances_of_fold(context: RunContext, teacher: TrainedTeacher, fold: int) -> list[Utterance]:
    """Training utterances of a fold's teacher: all but that fold. Raises as `fold_of_training`."""
    fold_of = fold_of_training(context, teacher)
    return [utterance for utterance in read_prepared(context.work_dir).train if fold_of[utterance.id] != fold]


RECORD = "models.json"
"""Below stages/ in the work_dir: source → SHA-256 of its folder's content."""
NO_FOLDERS = ("recipe", "torchaudio")
"""Kinds of sources that name no folder."""
WITH_REVISION = ("hf", "encoder", "speechbrain")
"""Kinds of sources whose folder may stand before an @."""
NOT_CONTENT = frozenset({".md", ".lock"})
"""Suffixes of files that decide nothing: model cards."""


def source_in_key(context: RunContext, source: str) -> str:
    """A source as the settings of a cache key hold it: without the path of a folder, see `source_hashes`."""
    kind = source.partition(":")[0]
    return f"{kind}:FOLDER" if _folder(source) is not None or source in _recorded(context) else source


def source_hashes(context: RunContext, sources: Iterable[str | None]) -> list[str]:
    """The SHA-256 of the content of each source that is a folder; other sources have none."""
    hashes = []
    for source in filter(None, sources):
        folder = _folder(source)
        hashes += _recorded_hash(context, source, None if folder is None else folder_sha256(folder))
    return hashes


def encoder_hashes(context: RunContext, model: object) -> list[str]:
    """The SHA-256 of the Whisper weights that a student begins from, also where its name is one of the hub and
    `ASR_KD_MODELS` holds it; none of a download from the hub."""
    if not isinstance(model, WhisperSettings):
        return []
    path = user_path(local_copy(parse_source(model.source).place)) / WEIGHTS
    found = sha256_of_file(path) if path.is_file() else None
    return _recorded_hash(context, f"{model.source}/{WEIGHTS}", found)


def _recorded_hash(context: RunContext, name: str, found: str | None) -> list[str]:
    """Record a hash; without one return that recorded before, if any."""
    recorded = _recorded(context)
    if found is not None and recorded.get(name) != found:
        recorded[name] = found
        write_json(context.folder("stages", RECORD), recorded)
    return [recorded[name]] if name in recorded else []


def folder_sha256(folder: Path) -> str:
    """The SHA-256 of the names and contents of a folder's files, without model cards and sub-folders."""
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix not in NOT_CONTENT]
    found = [(path, path.stat()) for path in sorted(files) if not path.name.startswith(".")]
    return sha256_of({path.name: _sha256(path, stat.st_size, stat.st_mtime_ns) for path, stat in found})


def encoder_sources(model: object) -> list[str]:
    """The public encoder that a model contains or begins from."""
    if isinstance(model, EncoderCtcSettings):
        return [model.encoder.source]
    return [model.source] if isinstance(model, WhisperSettings) else []


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    return sha256_of_file(path)


def _folder(source: str) -> Path | None:
    kind, _, place = source.partition(":")
    if kind in NO_FOLDERS or not place:
        return None
    named = (place, place.rpartition("@")[0]) if kind in WITH_REVISION else (place,)
    return next((path for name in named if name and (path := user_path(name)).is_dir()), None)


def _recorded(context: RunContext) -> dict[str, Any]:
    path = context.folder("stages", RECORD)
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise AsrKdError(
            f"cannot be read ({error})", where=path, expected="what asr-kd wrote", remedy="Delete it and run again"
        ) from error
