"""The stages of a recipe as units of work: what each depends on, and which part of the package does it.

No loop over data here: a unit calls its part and says what came out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr_kd.corpora.corpus import manifests_folder, write_prepared
from asr_kd.corpora.fingerprint import fingerprint, untranscribed_fingerprint
from asr_kd.corpora.prepare import add_untranscribed, prepare
from asr_kd.corpora.recordings import read_utterance
from asr_kd.corpora.settings import SyntheticSettings
from asr_kd.corpora.synthetic import DESCRIPTION as SYNTHETIC
from asr_kd.corpora.synthetic import synthetic_folder
from asr_kd.evaluation.comparison import Comparison
from asr_kd.evaluation.evaluate import evaluate_systems, spread
from asr_kd.evaluation.report import CARDS, RESULTS, read_results
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.system import external_sha256
from asr_kd.export.export_bundle import Origin, bundle_places, export_bundle
from asr_kd.files import sha256_of_file
from asr_kd.models.weights import DESCRIPTION, WEIGHTS
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.decoding import decoding_inputs
from asr_kd.recipe.extraction import extraction_unit, hypotheses_unit
from asr_kd.recipe.layout import (
    VOCABULARY,
    corpus_hashes,
    existing,
    exported,
    model_folders,
    model_sha256,
    read_corpus,
)
from asr_kd.recipe.messages import report_bundle, report_corpus
from asr_kd.recipe.seeds import seed_rows_of, seeds_of
from asr_kd.recipe.stage import Unit
from asr_kd.recipe.system_settings import AnyTeacher, ExistingTeacher, TeacherSettings, is_one_model
from asr_kd.recipe.systems import (
    absent_systems,
    curves,
    facts_of_teachers,
    open_named,
    role_of,
    system_sha256,
    teacher_of_student,
)
from asr_kd.recipe.teachers import teacher_unit
from asr_kd.recipe.training_units import student_unit, trained_teacher_units
from asr_kd.runtime.bundle import DESCRIPTION as BUNDLE
from asr_kd.text.settings import build_vocabulary, vocabulary_fingerprint

STAGES = ("prepare", "teacher", "extract", "student", "evaluate", "export")


def units_of(context: RunContext) -> list[Unit]:
    """All units of the recipe, in the order they run."""
    recipe = context.recipe
    return [
        _prepare(context),
        *(unit for name, settings in _trained_first(recipe.teachers) for unit in _teacher(context, name, settings)),
        *(extraction_unit(context, name) for name in recipe.teachers if recipe.target_speeds(name)),
        *(hypotheses_unit(context, name) for name in recipe.teachers if recipe.needs_nbest(name)),
        *(student_unit(context, name, settings) for name, settings in recipe.students.items()),
        _evaluate(context),
        *(_export(context, name) for name in exported(context)),
    ]


def _trained_first(teachers: Mapping[str, AnyTeacher]) -> list[tuple[str, AnyTeacher]]:
    """An ensemble may stand above the teachers that it is made of."""
    return sorted(teachers.items(), key=lambda item: isinstance(item[1], ExistingTeacher))


def _teacher(context: RunContext, name: str, settings: AnyTeacher) -> list[Unit]:
    trained = trained_teacher_units(context, name, settings) if isinstance(settings, TeacherSettings) else []
    return trained if is_one_model(settings) else [*trained, teacher_unit(context, name, settings)]


# -- prepare ---------------------------------------------------------------------------------------------


def _prepare(context: RunContext) -> Unit:
    recipe, folder = context.recipe, manifests_folder(context.work_dir)
    extra = recipe.untranscribed
    results = [folder / "corpus.json", folder / VOCABULARY]
    if isinstance(recipe.corpus, SyntheticSettings):
        results.append(synthetic_folder(recipe.corpus, context.work_dir) / SYNTHETIC)

    def run(folder: Path) -> None:
        corpus = prepare(recipe.corpus, context.work_dir, context.progress)
        if extra is not None:
            corpus = add_untranscribed(corpus, extra, context.progress)
        write_prepared(corpus, context.work_dir)
        vocabulary = build_vocabulary(recipe.vocabulary, [u.text for u in corpus.train if u.text])
        vocabulary.save(folder / VOCABULARY)
        report_corpus(context.progress, folder, corpus, vocabulary)

    return Unit(
        "prepare",
        "prepare",
        context.work_dir,
        folder,
        settings={
            "corpus": recipe.corpus.model_dump(mode="json"),
            "vocabulary": recipe.vocabulary.model_dump(mode="json"),
            **({"untranscribed": extra.model_dump(mode="json")} if extra is not None else {}),
        },
        inputs=lambda: [
            fingerprint(recipe.corpus),
            vocabulary_fingerprint(recipe.vocabulary),
            *([untranscribed_fingerprint(extra)] if extra is not None else []),
        ],
        run=run,
        results=tuple(results),
        kept=False,
    )


# -- evaluate and export ---------------------------------------------------------------------------------


def _evaluate(context: RunContext) -> Unit:
    recipe, folder = context.recipe, context.folder("report")
    names = sorted([*recipe.teachers, *recipe.students])
    stated = {
        name: [student.baseline, student.teacher] for name, student in recipe.students.items() if student.baseline
    }

    def run(folder: Path) -> None:
        corpus, _ = read_corpus(context)
        absent = absent_systems(context)
        systems = [open_named(context, name) for name in [*recipe.teachers, *recipe.students] if name not in absent]
        pairs = [
            Comparison(name, student.baseline, teacher_of_student(recipe, student))
            for name, student in recipe.students.items()
            if student.baseline is not None
        ]
        facts = RunFacts(
            synthetic=corpus.synthetic,
            seeds=seeds_of(recipe),
            seed_rows=seed_rows_of(recipe),
            absent_sets=corpus.absent,
            command=context.command or None,
            absent_systems=absent,
            comparisons=tuple(pairs),
            teachers=facts_of_teachers(context),
            recipe=recipe.name,
            corpus=corpus.name,
            dev_sets=corpus.dev_sets,
            curves=curves(context),
            bridge=recipe.bridge,
        )
        evaluate_systems(systems, corpus.sets, recipe.evaluate, folder, facts=facts, progress=context.progress)

    def inputs() -> list[Any]:
        absent = absent_systems(context)
        present = [name for name in [*recipe.teachers, *recipe.students] if name not in absent]
        if not present:
            existing(next(iter(model_folders(context).values())) / WEIGHTS, "teacher or student")
        others = external_sha256(recipe.evaluate.others)
        models = [system_sha256(context, name) for name in present]
        return corpus_hashes(context) + models + others + decoding_inputs(context, present)

    return Unit(
        "evaluate",
        "evaluate",
        context.work_dir,
        folder,
        settings={
            "evaluate": recipe.evaluate.model_dump(mode="json"),
            "models": names,
            **({"pairs": stated} if stated else {}),
        },
        inputs=inputs,
        run=run,
        results=(folder / RESULTS,),
    )


def _export(context: RunContext, name: str) -> Unit:
    recipe, folder, model = context.recipe, context.folder("export", name), model_folders(context)[name]

    def inputs() -> list[Any]:
        identity = [model_sha256(model), sha256_of_file(existing(model / DESCRIPTION, "student"))]
        return [*identity, _word_error_rates(context, name)]  # the bundle states them

    places = bundle_places(recipe.export.contexts, folder)

    def run(folder: Path) -> None:
        corpus, _ = read_corpus(context)
        waveforms = [read_utterance(u) for u in spread(corpus.dev, recipe.export.verify_utterances)]
        card = context.folder("report", CARDS, f"{name}.md")
        origin = Origin(
            recipe=recipe.name,
            name=name,
            wer=_word_error_rates(context, name),
            card=card.read_text(encoding="utf-8") if card.is_file() else None,
            held_out=[utterance for members in corpus.sets.values() for utterance in members],
        )
        for place, chosen in places.items():
            settings = recipe.export.model_copy(update={"context": chosen or recipe.export.context})
            info = export_bundle(model, place, waveforms, origin=origin, settings=settings, progress=context.progress)
            report_bundle(context.progress, place, info)

    return Unit(
        "export",
        name,
        context.work_dir,
        folder,
        settings=recipe.export.model_dump(mode="json"),
        inputs=inputs,
        run=run,
        results=tuple(place / BUNDLE for place in places),
    )


def _word_error_rates(context: RunContext, name: str) -> dict[str, float]:
    """Test set → WER of a model, from the report if there is one; the bundle carries them."""
    folder = context.folder("report")
    if not (folder / RESULTS).is_file():
        return {}
    key = name if role_of(context, name) == "other" else role_of(context, name)
    found = read_results(folder)["test_sets"]
    return {test_set: row[key]["wer"] for test_set, row in found.items() if key in row}
