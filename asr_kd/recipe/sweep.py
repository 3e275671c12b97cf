"""Many variants of one student, trained and scored one after another; what is there is not done again.

A sweep is the recipe with one student a row: prepare, teachers and extraction run once for all of them, by the same
units of work as `asr-kd run`. After each row its result is appended to `rows.jsonl`. The teacher is transcribed with
the first row; the others are set beside what it wrote then.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_kd.corpora.corpus import PreparedCorpus
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import StoppedEarly
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.report import read_results
from asr_kd.evaluation.results import Results, RunFacts
from asr_kd.files import read_json, sha256_of, write_json
from asr_kd.models.weights import load_model
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.decoding import decoding_of
from asr_kd.recipe.layout import corpus_hashes, model_folders, model_sha256, read_corpus
from asr_kd.recipe.pipeline import run_recipe
from asr_kd.recipe.sweep_plan import PlannedRow
from asr_kd.recipe.sweep_rows import ROWS, append_row, newest, read_rows, still_holds, whose
from asr_kd.recipe.system_settings import needs_teacher
from asr_kd.recipe.systems import absent_systems, open_named, system_sha256

HEARD = "teacher.json"
"""What the teacher wrote of the dev sets, and of which teacher, audio and settings that is."""


def run_sweep(context: RunContext, rows: Sequence[PlannedRow], folder: Path) -> None:
    """Train and score what is missing; results go to `folder`/rows.jsonl, one line each.

    Args:
        context: with the recipe that `recipe_of` made.
        rows: what is tried.
        folder: of the sweep.

    Raises:
        StoppedEarly: asked to stop; finished rows are written, the one under way is saved.
    """
    run_recipe(context, "prepare", "extract")
    say = context.progress.message
    for number, row in enumerate(rows, start=1):
        if row.skip is not None:
            say(f"row {number} of {len(rows)}: {row.name}: not run ({row.skip})")
            continue
        say(f"row {number} of {len(rows)}: {row.name}")
        run_recipe(context, "student", "student", only=[row.name])
        reason = context.stop_reason()
        _score_anew(context, row, folder)
        if reason is not None and number < len(rows):
            raise StoppedEarly(f"stopped ({reason}) after {row.name}", remedy="Run the same command again to go on")


def _score_anew(context: RunContext, row: PlannedRow, folder: Path) -> None:
    """Add the row's result where the newest one is not of these weights, this way to score and this teacher."""
    key, teacher = _key(context, row), _teacher_beside(context, row)
    sha256 = None if teacher is None else system_sha256(context, teacher)
    known = newest(read_rows(folder / ROWS)).get(whose(row.row, row.varied, _seed(context, row)))
    if not still_holds(known, key, sha256):
        scored = _scored(context, row, teacher, folder)
        append_row(folder / ROWS, {**scored, "key": key, "teacher_sha256": sha256})


def _key(context: RunContext, row: PlannedRow) -> str:
    """Changes when the student's figures would: other weights, or another way to score."""
    return sha256_of(
        [model_sha256(model_folders(context)[row.name]), context.recipe.evaluate.model_dump(mode="json"), row.row]
    )


def _teacher_beside(context: RunContext, row: PlannedRow) -> str | None:
    """The teacher that a row is measured against, where it is there."""
    recipe, student = context.recipe, context.recipe.students[row.name]
    teacher = recipe.teacher_of(student) if needs_teacher(student) or recipe.teachers else None
    return None if teacher in absent_systems(context) else teacher


def _seed(context: RunContext, row: PlannedRow) -> int:
    return context.recipe.seed_of(context.recipe.students[row.name])


def _scored(context: RunContext, row: PlannedRow, teacher: str | None, folder: Path) -> dict[str, Any]:
    """The student on the dev sets, its teacher beside it for the delay: what goes into a line."""
    corpus, _ = read_corpus(context)
    recipe, seed = context.recipe, _seed(context, row)
    names = [name for name in (teacher, row.name) if name is not None]
    opened = [open_named(context, name) for name in names]
    systems = [replace(system, role="teacher" if system.name == teacher else "other") for system in opened]
    facts = RunFacts(synthetic=corpus.synthetic, seeds=(seed,), command=context.command or None)
    place = folder / "reports" / row.name
    # What a row is chosen by: errors and delay. The rest takes longer than some rows' training.
    page = recipe.evaluate.report.model_copy(update={"utterances": 0})
    settings = recipe.evaluate.model_copy(update={"memory": False, "rtf_utterances": 0, "report": page})
    heard = None if teacher is None else _heard_key(context, teacher)
    known = _known(folder / HEARD, heard)
    found = evaluate_systems(
        systems, _dev_sets(corpus), settings, place, facts=facts, known=known, progress=context.progress
    )
    if heard is not None and not known:
        _remember(folder / HEARD, heard, found)
    results = read_results(place)
    distill = recipe.students[row.name].distill
    card = load_model(model_folders(context)[row.name]).card
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


def _heard_key(context: RunContext, teacher: str) -> str:
    """Changes when the teacher would write something else: other weights, audio or decoding."""
    decoding = decoding_of(context, teacher).model_dump(mode="json")
    return sha256_of(
        [
            system_sha256(context, teacher),
            context.recipe.evaluate.model_dump(mode="json"),
            decoding,
            corpus_hashes(context),
        ]
    )


def _known(path: Path, key: str | None) -> dict[str, dict[str, dict[str, str]]]:
    """What the teacher wrote, as `evaluate_systems` takes it; nothing where that is of another key, or damaged."""
    try:
        found = read_json(path)
        if found["key"] == key:
            return {name: {"teacher": dict(texts)} for name, texts in found["texts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it is asked again then, which only takes time
        return {}
    return {}


def _remember(path: Path, key: str, found: Results) -> None:
    texts = {name: result.systems["teacher"].hypotheses for name, result in found.sets.items()}
    write_json(path, {"key": key, "texts": texts})


def _dev_sets(corpus: PreparedCorpus) -> dict[str, Sequence[Utterance]]:
    """Choices are made on these, and on nothing else."""
    return {name: corpus.sets[name] for name in corpus.dev_sets}


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
