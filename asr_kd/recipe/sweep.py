"""Sweeps: many settings of one student, trained and scored one after another; finished rows are not repeated.

A sweep is the recipe with one student a row: prepare, teachers and extraction run once for all of them, by the same
tasks as `asr-kd run`. After each row its result is appended to `rows.jsonl`. The teacher's transcripts are computed
with the first row and reused for the others."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_kd.errors import RecipeError, StoppedEarly
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.report import read_results
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.resumption import Resumption, SetVariant
from asr_kd.files import hashed, parse_json, read_json, sha256_of, write_json
from asr_kd.models.weights import load_model
from asr_kd.recipe.context import RunContext, model_sha256
from asr_kd.recipe.pipeline import run_recipe
from asr_kd.recipe.sweep_grid import PlannedRow
from asr_kd.recipe.systems import absent_systems, decoding_of, open_recipe_system, system_sha256

ROWS = "rows.jsonl"

Result = Mapping[str, Any]
"""A line."""


def append_row(path: Path, line: Result) -> None:
    """Append one more line; several sweeps may write one file. A RecipeError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(hashed(line), ensure_ascii=False) + "\n")
    except OSError as error:
        raise RecipeError(f"cannot be written ({error.strerror or error})", where=path) from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The results so far; none where nothing has run.

    Raises:
        RecipeError: a line that is no result.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = parse_json(line)
            row["key"], row["row"], row["varied"], row["seed"], row["sets"]
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                "is not a result of a sweep", where=f"{path}:{number}", remedy="Remove that line; its row runs again"
            ) from error
        found.append(row)
    return found


def newest(results: Iterable[Result]) -> dict[str, Result]:
    """The last result of each row and seed, by `row_key`."""
    return {row_key(result["row"], result["varied"], result["seed"]): result for result in results}


def row_key(row: str, varied: Mapping[str, Any], seed: int) -> str:
    """Key of a result: row, varied values and seed."""
    return f"{row}\n{sorted((key, repr(value)) for key, value in varied.items())}\n{seed}"


def is_current(result: Result | None, key: str, teacher_sha256: str | None) -> bool:
    """Whether a row's newest result is of these weights, this evaluation and this teacher (delays are measured against
    the teacher)."""
    return result is not None and (result["key"], result["teacher_sha256"]) == (key, teacher_sha256)


TEACHER_OUTPUTS = "teacher.json"
"""The teacher's transcripts of the dev sets, with a key of teacher, audio and settings."""


def run_sweep(context: RunContext, rows: Sequence[PlannedRow], folder: Path) -> None:
    """Train and score the missing rows; results go to `folder`/rows.jsonl, one line each.

    Raises:
        StoppedEarly: a time limit or signal; finished rows are written, the state of the current one is saved.
    """
    run_recipe(context, "prepare", "extract")
    for number, row in enumerate(rows, start=1):
        if row.skip is not None:
            context.progress.message(f"row {number} of {len(rows)}: {row.name}: not run ({row.skip})")
            continue
        context.progress.message(f"row {number} of {len(rows)}: {row.name}")
        run_recipe(context, "student", "student", only=[row.name])
        reason = context.stop_reason()
        _score(context, row, folder)
        if reason is not None and number < len(rows):
            raise StoppedEarly(f"stopped ({reason}) after {row.name}", remedy="Run the same command again to continue")


def _score(context: RunContext, row: PlannedRow, folder: Path) -> None:
    """Add the row's result unless the newest one is of the same weights, evaluation and teacher."""
    weights = model_sha256(context.model_folders()[row.name])
    key = sha256_of([weights, context.recipe.evaluate.model_dump(mode="json"), row.row])
    teacher = _teacher_beside(context, row)
    sha256 = None if teacher is None else system_sha256(context, teacher)
    known = newest(read_rows(folder / ROWS)).get(row_key(row.row, row.varied, _seed(context, row)))
    if not is_current(known, key, sha256):
        scored = _evaluate(context, row, teacher, folder)
        append_row(folder / ROWS, {**scored, "key": key, "teacher_sha256": sha256})


def _teacher_beside(context: RunContext, row: PlannedRow) -> str | None:
    """The teacher that a row is measured against, where it is there."""
    recipe, student = context.recipe, context.recipe.students[row.name]
    teacher = recipe.teacher_of(student) if student.needs_teacher or recipe.teachers else None
    return None if teacher in absent_systems(context) else teacher


def _seed(context: RunContext, row: PlannedRow) -> int:
    return context.recipe.seed_of(context.recipe.students[row.name])


def _evaluate(context: RunContext, row: PlannedRow, teacher: str | None, folder: Path) -> dict[str, Any]:
    """Evaluate the student on the dev sets, with its teacher for the delay; return the line of `rows.jsonl`."""
    corpus, _ = context.read_corpus()
    recipe, seed = context.recipe, _seed(context, row)
    dev_sets = {name: corpus.sets[name] for name in corpus.dev_sets}  # choices are made on these only
    names = [name for name in (teacher, row.name) if name is not None]
    opened = [open_recipe_system(context, name) for name in names]
    systems = [replace(system, role="teacher" if system.name == teacher else "other") for system in opened]
    facts = RunFacts(synthetic=corpus.synthetic, seeds=(seed,), command=context.command or None)
    place = folder / "reports" / row.name
    # Rows are compared by errors and delay; other measurements would take longer than the training of some rows.
    page = recipe.evaluate.report.model_copy(update={"utterances": 0})
    settings = recipe.evaluate.model_copy(update={"memory": False, "rtf_utterances": 0, "report": page})
    teacher_key = None if teacher is None else _teacher_key(context, teacher)
    known = _known_outputs(folder / TEACHER_OUTPUTS, teacher_key)
    found = evaluate_systems(systems, dev_sets, settings, place, facts, Resumption(known), context.progress)
    if teacher_key is not None and not known:
        texts = {
            name: {row["id"]: row.get("raw_hypothesis", row["hypothesis"]) for row in rows["teacher"]}
            for name, rows in found.rows.items()
        }
        write_json(folder / TEACHER_OUTPUTS, {"key": teacher_key, "texts": texts})
    results = read_results(place)
    distill = recipe.students[row.name].distill
    card = load_model(context.model_folders()[row.name]).card
    return {
        "row": row.row,
        "varied": dict(row.varied),
        "seed": seed,
        "changes": dict(row.changes),
        "sets": {name: _of_set(found, row.name, teacher) for name, found in results["test_sets"].items()},
        "parameters": results["models"][row.name]["parameters"],
        **{name: card.get(name) for name in ("epochs", "steps", "best_dev_wer")},
        "passes": card["steps"] * (1 if distill is None else distill.passes),
        "date": time.strftime("%Y-%m-%d"),
        "commit": results["provenance"].get("git_commit"),
        "command": context.command,
    }


def _teacher_key(context: RunContext, teacher: str) -> str:
    """Hash of all that decides the teacher's transcripts: weights, audio and decoding."""
    decoding = decoding_of(context, teacher).model_dump(mode="json")
    return sha256_of(
        [
            system_sha256(context, teacher),
            context.recipe.evaluate.model_dump(mode="json"),
            decoding,
            context.corpus_hashes(),
        ]
    )


def _known_outputs(path: Path, key: str | None) -> dict[SetVariant, dict[str, dict[str, str]]]:
    """The teacher's transcripts, as `evaluate_systems` takes them; empty when of another key, or damaged."""
    try:
        found = read_json(path)
        if found["key"] == key:
            return {SetVariant(name): {"teacher": dict(texts)} for name, texts in found["texts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # they are computed again
        return {}
    return {}


SCORES = ("wer", "wer_low_speakers", "wer_high_speakers", "substitutions", "deletions", "insertions", "words", "cer")


def _of_set(found: Mapping[str, Any], student: str, teacher: str | None) -> dict[str, Any]:
    own = found[student]
    scores = {name: own[name] for name in SCORES}
    scores["delay"] = own.get("delay")
    scores["by_speaker"] = own.get("by_speaker")
    if teacher is not None and "teacher" in found:
        scores["teacher_wer"] = found["teacher"]["wer"]
        by_speaker = found["teacher"].get("by_speaker") or {}
        scores["teacher_errors"] = {speaker: errors["errors"] for speaker, errors in by_speaker.items()}
    return scores
