"""How a recipe's systems are decoded: its `evaluate.decoding`, with the weights that `asr-kd tune` found for each."""

from pathlib import Path
from typing import Any

from asr_kd.decoding.settings import DecodingSettings
from asr_kd.errors import LanguageModelError
from asr_kd.files import read_json, sha256_of, sha256_of_file, write_json
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.layout import model_folders, model_sha256
from asr_kd.recipe.teachers import teacher_sha256

WEIGHTS = ("lm_weight", "word_score")


def tuned_path(context: RunContext, name: str) -> Path:
    """Where the weights of a system stand."""
    return context.folder("decoding", f"{name}.json")


def decoding_of(context: RunContext, name: str) -> DecodingSettings:
    """A system's decoding: what the recipe leaves open is as tuned, where that was for this model, LM and lexicon."""
    settings = context.recipe.evaluate.decoding
    if not settings.is_tunable or all(getattr(settings, weight) is not None for weight in WEIGHTS):
        return settings
    tuned = read_tuned(context, name)
    if tuned is None:
        return settings
    found = {weight: tuned[weight] for weight in WEIGHTS if getattr(settings, weight) is None}
    return settings.model_copy(update=found)


def read_tuned(context: RunContext, name: str) -> dict[str, float] | None:
    """The weights found for a system; None where there are none, or they belong to something else."""
    path = tuned_path(context, name)
    try:
        plain = read_json(path)
        if plain["tuned_for"] != tuned_for(context, name):
            return None
        return {weight: float(plain["decoding"][weight]) for weight in WEIGHTS}
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
    """What the weights depend on: with another model, language model, lexicon or search they are not used."""
    settings = context.recipe.evaluate.decoding
    plain = settings.model_dump(mode="json", exclude={*WEIGHTS, "nbest", "lm", "lexicon"})
    taught = name in context.recipe.teachers
    model = teacher_sha256(context, name) if taught else model_sha256(model_folders(context)[name])
    return {"model": model, "search": sha256_of(plain), **_files(settings)}


def decoding_inputs(context: RunContext, names: list[str]) -> list[Any]:
    """What evaluation depends on beyond the settings: the LM's and lexicon's bytes, and the weights in use."""
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
