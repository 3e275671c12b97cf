"""The teachers and students of a recipe as systems to evaluate: identities, roles, seeds and decoding."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_kd.decoding.settings import DecodingSettings
from asr_kd.errors import LanguageModelError
from asr_kd.evaluation.comparison import Comparison, SeedRows
from asr_kd.evaluation.open_systems import open_system, open_teacher_system
from asr_kd.evaluation.system import FALLING_CURVE, Role, System
from asr_kd.files import loads_json, read_json, sha256_of, sha256_of_file, write_json
from asr_kd.models.weights import WEIGHTS, load_model
from asr_kd.recipe.context import RunContext, model_sha256
from asr_kd.recipe.settings import Recipe
from asr_kd.recipe.system_settings import AnyTeacher, ExistingTeacher, StudentSettings, has_layers_only, is_one_model
from asr_kd.recipe.teachers import IDENTITY, encoder_of, open_teacher, teacher_sha256
from asr_kd.teachers.local import LocalTeacher, is_encoder_folder, read_card

CURVE = "curve.jsonl"
"""What training writes beside a model's folder."""
CURVE_KEYS = ("epoch", "dev_wer", "dev_loss", "train_loss")


def absent_systems(context: RunContext) -> dict[str, str]:
    """Name → why it cannot be evaluated yet."""
    absent = {
        name: "not trained yet" for name, folder in context.model_folders().items() if not (folder / WEIGHTS).is_file()
    }
    for name, settings in context.recipe.teachers.items():
        if has_layers_only(settings):
            absent[name] = "an encoder without a head"
        elif not is_one_model(settings) and not (context.teacher_folder(name) / IDENTITY).is_file():
            absent[name] = "not opened yet: run the stage teacher"
    return absent


def system_sha256(context: RunContext, name: str) -> str:
    """SHA-256 of a trained system or an existing teacher."""
    if name in context.recipe.teachers:
        return teacher_sha256(context, name)
    return model_sha256(context.model_folders()[name])


def open_recipe_system(context: RunContext, name: str) -> System:
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
    folder = context.model_folders()[name]
    loaded = None if is_encoder_folder(folder) else load_model(folder)
    card = read_card(folder) if loaded is None else loaded.card
    details = {key: card.get(key) for key in ("epochs", "best_dev_wer", "training_utterances", "seed")}
    if card.get(FALLING_CURVE):
        details[FALLING_CURVE] = card[FALLING_CURVE]
    if loaded is None:
        teacher = LocalTeacher(folder, context.device, encoder=encoder_of(context, name))
        details["external"] = False
        return open_teacher_system(name, teacher, role=role, device=device, details=details, decoding=decoding)
    details["architecture"] = loaded.model.settings.architecture
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
    """Learning curves by model: epochs with their dev WER and losses; models without one are left out."""
    found = {name: _curve(model.parent / CURVE) for name, model in context.model_folders().items()}
    return {name: rows for name, rows in found.items() if rows}


def _curve(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [loads_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
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


MAY_DIFFER_IN_ROW = ("seed", "baseline")
"""Settings that may differ within a row: a run is compared with the baseline of its own seed."""
_DEFAULT_BASELINE = {"student-kd": "student-hard"}


def seeds_of(recipe: Recipe) -> tuple[int, ...]:
    """The seeds that the recipe's models are trained with."""
    trained = [*recipe.teachers.values(), *recipe.students.values()]
    own = [getattr(system, "seed", recipe.seed) for system in trained if hasattr(system, "train")]
    return tuple(sorted({recipe.seed if seed is None else seed for seed in own})) or (recipe.seed,)


def seed_rows_of(recipe: Recipe) -> SeedRows:
    """The recipe's systems in rows, each named as the first of its runs, and which rows are compared."""
    rows: dict[str, list[str]] = {}
    named: dict[str, str] = {}
    for name, system in [*recipe.teachers.items(), *recipe.students.items()]:
        row = named.setdefault(_key_without_seed(name, system), name)
        rows.setdefault(row, []).append(name)
    row_of = {name: row for row, names in rows.items() for name in names}
    pairs = []
    for row in rows:
        student = recipe.students.get(row)
        baseline = student and (student.baseline or _DEFAULT_BASELINE.get(row))
        if student is not None and baseline in row_of:
            pairs.append(Comparison(row, row_of[baseline], row_of.get(teacher_of_student(recipe, student) or "")))
    return SeedRows(rows, tuple(pairs))


def _key_without_seed(name: str, system: Any) -> str:
    """A hash that is equal for runs of one system; the name for an existing teacher."""
    if not hasattr(system, "train"):
        return name
    plain = system.model_dump(mode="json")
    kind = "student" if isinstance(system, StudentSettings) else "teacher"
    return sha256_of([kind, {key: value for key, value in plain.items() if key not in MAY_DIFFER_IN_ROW}])


TUNED_KEYS = ("lm_weight", "word_score")


def tuned_path(context: RunContext, name: str) -> Path:
    """File with the tuned weights of a system."""
    return context.folder("decoding", f"{name}.json")


def decoding_of(context: RunContext, name: str) -> DecodingSettings:
    """Decoding of a system: weights that the recipe leaves open are the tuned ones, if any fit this model and LM."""
    settings = context.recipe.evaluate.decoding
    if not settings.is_tunable or all(getattr(settings, weight) is not None for weight in TUNED_KEYS):
        return settings
    tuned = read_tuned(context, name)
    if tuned is None:
        return settings
    found = {weight: tuned[weight] for weight in TUNED_KEYS if getattr(settings, weight) is None}
    return settings.model_copy(update=found)


def decoding_key(context: RunContext, name: str) -> list[Any]:
    """Plain data that decides how a system's posteriors become text."""
    settings = decoding_of(context, name)
    return [settings.model_dump(mode="json", exclude={"lm", "lexicon"}), _files(settings)]


def read_tuned(context: RunContext, name: str) -> dict[str, float] | None:
    """Tuned weights of a system; None where there are none, or they belong to another model, LM or search."""
    path = tuned_path(context, name)
    try:
        plain = read_json(path)
        if plain["tuned_for"] != tuned_for(context, name):
            return None
        return {weight: float(plain["decoding"][weight]) for weight in TUNED_KEYS}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LanguageModelError(
            f"cannot be read ({error!r})", where=path, expected="what asr-kd tune wrote", remedy="Run asr-kd tune again"
        ) from error


def write_tuned(context: RunContext, name: str, chosen: DecodingSettings, facts: dict[str, Any]) -> Path:
    """Write a system's weights where evaluation looks for them, and `asr-kd transcribe --decoding` reads them."""
    path = tuned_path(context, name)
    plain = chosen.model_copy(
        update={key: value.resolve() for key in ("lm", "lexicon") if (value := getattr(chosen, key)) is not None}
    ).model_dump(mode="json", exclude_none=True)
    write_json(path, {"decoding": plain, **facts, "tuned_for": tuned_for(context, name)})
    return path


def tuned_for(context: RunContext, name: str) -> dict[str, str]:
    """Hashes that tuned weights depend on: model, language model, lexicon and search."""
    settings = context.recipe.evaluate.decoding
    plain = settings.model_dump(mode="json", exclude={*TUNED_KEYS, "nbest", "lm", "lexicon"})
    return {"model": system_sha256(context, name), "search": sha256_of(plain), **_files(settings)}


def decoding_inputs(context: RunContext, names: list[str]) -> list[Any]:
    """Inputs of evaluation beyond the settings: hashes of LM and lexicon, and the weights in use."""
    settings = context.recipe.evaluate.decoding
    if not settings.is_tunable:
        return []
    return [_files(settings), {name: read_tuned(context, name) for name in names}]


def _files(settings: DecodingSettings) -> dict[str, str]:
    hashes = {}
    for key in ("lm", "lexicon"):
        path = getattr(settings, key)
        if path is not None:
            if not path.is_file():
                raise LanguageModelError("no such file", where=path, expected=f"the {key} that evaluate.decoding names")
            hashes[key] = sha256_of_file(path)
    return hashes
