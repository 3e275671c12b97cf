"""The teachers and students of a recipe as systems to evaluate: which exist, their identities and roles."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_kd.evaluation.open_systems import open_system, open_teacher_system
from asr_kd.evaluation.system import Role, System
from asr_kd.models.weights import WEIGHTS, load_model
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.decoding import decoding_of
from asr_kd.recipe.layout import model_folders, model_sha256, teacher_folder
from asr_kd.recipe.settings import Recipe
from asr_kd.recipe.system_settings import AnyTeacher, ExistingTeacher, StudentSettings, is_one_model
from asr_kd.recipe.teachers import IDENTITY, open_teacher, teacher_sha256
from asr_kd.teachers.encoder_folder import is_encoder_folder, read_card
from asr_kd.teachers.opening import open_local

CURVE = "curve.jsonl"
"""What training writes beside a model's folder."""
CURVE_KEYS = ("epoch", "dev_wer", "dev_loss", "train_loss")


def absent_systems(context: RunContext) -> dict[str, str]:
    """Name → why it cannot be evaluated yet."""
    absent = {
        name: "not trained yet" for name, folder in model_folders(context).items() if not (folder / WEIGHTS).is_file()
    }
    for name, settings in context.recipe.teachers.items():
        if not is_one_model(settings) and not (teacher_folder(context, name) / IDENTITY).is_file():
            absent[name] = "not opened yet"
    return absent


def system_sha256(context: RunContext, name: str) -> str:
    """The identity of a system that is there."""
    if name in context.recipe.teachers:
        return teacher_sha256(context, name)
    return model_sha256(model_folders(context)[name])


def open_named(context: RunContext, name: str) -> System:
    """A teacher or student of the recipe, ready to transcribe with the recipe's `evaluate.decoding`."""
    decoding = decoding_of(context, name)
    role, device = role_of(context, name), str(context.device)
    settings = context.recipe.teachers.get(name)
    if settings is not None and not is_one_model(settings):
        return open_teacher_system(
            name,
            open_teacher(context, name),
            role=role,
            device=device,
            details=_description(settings),
            decoding=decoding,
        )
    folder = model_folders(context)[name]
    card = read_card(folder) if is_encoder_folder(folder) else load_model(folder).card
    details = {key: card.get(key) for key in ("epochs", "best_dev_wer", "training_utterances", "seed")}
    if is_encoder_folder(folder):
        teacher = open_local(folder, context.device)
        details["external"] = False
        return open_teacher_system(name, teacher, role=role, device=device, details=details, decoding=decoding)
    found = open_system(name, role, folder, device=device, details=details, decoding=decoding)
    return replace(found, bundle=context.folder("export", name))


def facts_of_teachers(context: RunContext) -> dict[str, dict[str, Any]]:
    """Facts for the report on teachers that the recipe does not train."""
    return {
        name: {**_description(settings), "bridge": context.recipe.bridge.strategy}
        for name, settings in context.recipe.teachers.items()
        if isinstance(settings, ExistingTeacher)
    }


def curves(context: RunContext) -> dict[str, list[dict[str, Any]]]:
    """Epochs of each model's training with what was measured after them, by its name; what is not there is left out."""
    found = {name: _curve(model.parent / CURVE) for name, model in model_folders(context).items()}
    return {name: rows for name, rows in found.items() if rows}


def _curve(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):  # only a picture in the report: models that were copied here come without
        return []
    return [{key: row[key] for key in CURVE_KEYS if key in row} for row in rows if isinstance(row, dict)]


def role_of(context: RunContext, name: str) -> Role:
    """A system's role in the table: `student-kd` and its teacher, `student-hard`, or another one."""
    recipe = context.recipe
    if name == "student-hard":
        return "student_hard"
    if name == "student-kd":
        return "student_kd"
    compared = recipe.students.get("student-kd")
    main_teacher = teacher_of_student(recipe, compared) if compared is not None else next(iter(recipe.teachers), None)
    return "teacher" if name == main_teacher else "other"


def teacher_of_student(recipe: Recipe, student: StudentSettings) -> str | None:
    """The teacher that a student is compared with.

    None where its labels are other systems' hypotheses, or where it names no teacher and there are several.
    """
    unnamed = student.teacher is None
    if not recipe.teachers or (unnamed and (student.hypotheses is not None or len(recipe.teachers) > 1)):
        return None
    return recipe.teacher_of(student)


def _description(settings: AnyTeacher) -> dict[str, Any]:
    if not isinstance(settings, ExistingTeacher):
        return {"external": False, "folds": settings.folds}
    plain = settings.model_dump(mode="json")
    return {"source": plain["source"], "precision": plain["precision"]}
