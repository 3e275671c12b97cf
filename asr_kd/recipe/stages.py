"""The stages of a recipe as units of work: what each depends on, and which part of the package does it.

No loop over data here: a unit calls its part and says what came out.
"""

from pathlib import Path
from typing import Any

from asr_kd.corpora.fingerprint import fingerprint
from asr_kd.corpora.prepare import manifests_folder, prepare, write_prepared
from asr_kd.corpora.recordings import read_utterance
from asr_kd.corpora.settings import SyntheticSettings
from asr_kd.corpora.synthetic import DESCRIPTION as SYNTHETIC
from asr_kd.corpora.synthetic import synthetic_folder
from asr_kd.errors import StoppedEarly
from asr_kd.evaluation.evaluate import evaluate_systems, spread
from asr_kd.evaluation.opening import open_system
from asr_kd.evaluation.report import RESULTS, read_results
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.systems import Role, System
from asr_kd.export.bundle import export_bundle
from asr_kd.files import sha256_of_file
from asr_kd.models.subsampling import FRAME_SHIFT_MS
from asr_kd.models.weights import DESCRIPTION, WEIGHTS, load_model
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.layout import (
    VOCABULARY,
    corpus_hashes,
    existing,
    exported,
    model_folders,
    model_sha256,
    read_corpus,
    store_sha256,
    student_folder,
    targets_folder,
    teacher_folder,
    training_hashes,
)
from asr_kd.recipe.say import say_bundle, say_corpus, say_extraction
from asr_kd.recipe.settings import StudentSettings, TeacherSettings, learns_from_teacher, reads_store
from asr_kd.recipe.stage import Unit
from asr_kd.runtime.bundle import DESCRIPTION as BUNDLE
from asr_kd.targets.extract import extract
from asr_kd.targets.store import INDEX, Store
from asr_kd.teachers.local import LocalTeacher
from asr_kd.text.normalize import normalize
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.train import Control, TrainingJob, train

STAGES = ("prepare", "teacher", "extract", "student", "evaluate", "export")


def units_of(context: RunContext) -> list[Unit]:
    """All units of the recipe, in the order they run."""
    recipe = context.recipe
    return [
        _prepare(context),
        *(_teacher(context, name, settings) for name, settings in recipe.teachers.items()),
        *(_extract(context, name) for name in recipe.teachers if recipe.target_speeds(name)),
        *(_student(context, name, settings) for name, settings in recipe.students.items()),
        _evaluate(context),
        *(_export(context, name) for name in exported(context)),
    ]


# -- prepare ---------------------------------------------------------------------------------------------


def _prepare(context: RunContext) -> Unit:
    recipe, folder = context.recipe, manifests_folder(context.work_dir)
    results = [folder / "corpus.json", folder / VOCABULARY]
    if isinstance(recipe.corpus, SyntheticSettings):
        results.append(synthetic_folder(recipe.corpus, context.work_dir) / SYNTHETIC)

    def run(folder: Path) -> None:
        corpus = prepare(recipe.corpus, context.work_dir, context.progress)
        write_prepared(corpus, context.work_dir)
        normalizer = recipe.vocabulary.normalizer
        vocabulary = Vocabulary.characters(normalize(u.text, normalizer) for u in corpus.train if u.text)
        vocabulary.save(folder / VOCABULARY)
        say_corpus(context.progress, folder, corpus, vocabulary)

    return Unit(
        "prepare",
        "prepare",
        context.work_dir,
        folder,
        settings={
            "corpus": recipe.corpus.model_dump(mode="json"),
            "vocabulary": recipe.vocabulary.model_dump(mode="json"),
        },
        inputs=lambda: fingerprint(recipe.corpus),
        run=run,
        results=tuple(results),
        kept=False,
    )


# -- teachers and students -------------------------------------------------------------------------------


def _teacher(context: RunContext, name: str, settings: TeacherSettings) -> Unit:
    return _trained(context, "teacher", name, teacher_folder(context, name), settings)


def _student(context: RunContext, name: str, settings: StudentSettings) -> Unit:
    return _trained(context, "student", name, student_folder(context, name), settings)


def _trained(
    context: RunContext, stage: str, name: str, folder: Path, settings: TeacherSettings | StudentSettings
) -> Unit:
    def run(folder: Path) -> None:
        job = _training_job(context, name, settings)
        train(job, folder, Control(context.device, context.progress, context.stop_reason))

    return Unit(
        stage,
        name,
        context.work_dir,
        folder,
        settings={
            **settings.model_dump(mode="json"),
            "seed": context.recipe.seed,
            **context.recipe.vocabulary.model_dump(mode="json", exclude_defaults=True),
        },
        inputs=lambda: training_hashes(context) + _taught_by(context, settings),
        run=run,
        results=(folder / "model" / WEIGHTS,),
    )


def _taught_by(context: RunContext, settings: TeacherSettings | StudentSettings) -> list[str]:
    """Hashes of the teacher and of its soft targets, where a student learns from them."""
    if not isinstance(settings, StudentSettings) or not learns_from_teacher(settings):
        return []
    teacher = context.recipe.teacher_of(settings)
    hashes = [model_sha256(teacher_folder(context, teacher) / "model")]
    return [*hashes, store_sha256(targets_folder(context, teacher))] if reads_store(settings) else hashes


def _training_job(context: RunContext, name: str, settings: TeacherSettings | StudentSettings) -> TrainingJob:
    corpus, vocabulary = read_corpus(context)
    recipe = context.recipe
    store, dense_teacher, distill = None, None, None
    if isinstance(settings, StudentSettings):
        distill = settings.distill
        teacher = recipe.teacher_of(settings)
        if reads_store(settings):
            store = Store.open(
                targets_folder(context, teacher),
                vocabulary=vocabulary,
                teacher_sha256=model_sha256(teacher_folder(context, teacher) / "model"),
                frame_shift_ms=FRAME_SHIFT_MS,
            )
        elif learns_from_teacher(settings):
            dense_teacher = load_model(teacher_folder(context, teacher) / "model", context.device).model
    return TrainingJob(
        name=name,
        model=settings.model,
        train=settings.train,
        distill=distill,
        vocabulary=vocabulary,
        normalizer=recipe.vocabulary.normalizer,
        seed=recipe.seed,
        train_utterances=corpus.train,
        dev_utterances=corpus.dev,
        store=store,
        dense_teacher=dense_teacher,
        card={"recipe": recipe.name, "corpus": corpus.name, "synthetic": corpus.synthetic, "seed": recipe.seed},
    )


# -- extract ---------------------------------------------------------------------------------------------


def _extract(context: RunContext, teacher: str) -> Unit:
    recipe, folder = context.recipe, targets_folder(context, teacher)
    speeds = tuple(sorted({*recipe.targets.speeds, *recipe.target_speeds(teacher)}))
    settings = recipe.targets.model_copy(update={"speeds": speeds})

    def run(folder: Path) -> None:
        corpus, _ = read_corpus(context)
        before = _shards_in(folder)

        def should_stop() -> bool:
            # A shard is the least that is kept: without one a call, a short time limit would never get anywhere.
            stop = context.should_stop()
            return stop is not None and (stop.urgent or _shards_in(folder) > before)

        report = extract(
            LocalTeacher(teacher_folder(context, teacher) / "model", device=context.device),
            corpus.train,
            settings,
            folder,
            should_stop=should_stop,
            progress=lambda done, total: context.progress.update(f"extract {teacher}", done, total, "s of audio"),
        )
        if not report.complete:
            raise StoppedEarly(
                f"other processes still make {len(report.busy)} shards of {folder} ({report.busy[0]})",
                remedy="Run the same command again when they are done",
            )
        say_extraction(context.progress, folder, report)

    return Unit(
        "extract",
        teacher,
        context.work_dir,
        folder,
        settings=settings.model_dump(mode="json"),
        inputs=lambda: [*corpus_hashes(context, "train"), model_sha256(teacher_folder(context, teacher) / "model")],
        run=run,
        results=(folder / INDEX,),
    )


def _shards_in(folder: Path) -> int:
    return len(list(folder.glob("shard-*.json")))


# -- evaluate and export ---------------------------------------------------------------------------------


def _evaluate(context: RunContext) -> Unit:
    recipe, folder, models = context.recipe, context.folder("report"), model_folders(context)

    def run(folder: Path) -> None:
        corpus, _ = read_corpus(context)
        systems = [_system(context, name, path) for name, path in models.items()]
        facts = RunFacts(
            synthetic=corpus.synthetic, seeds=(recipe.seed,), absent_sets=corpus.absent, command=context.command or None
        )
        evaluate_systems(systems, corpus.sets, recipe.evaluate, folder, facts=facts, progress=context.progress)

    return Unit(
        "evaluate",
        "evaluate",
        context.work_dir,
        folder,
        settings={"evaluate": recipe.evaluate.model_dump(mode="json"), "models": sorted(models)},
        inputs=lambda: corpus_hashes(context) + [model_sha256(path) for path in models.values()],
        run=run,
        results=(folder / RESULTS,),
    )


def _system(context: RunContext, name: str, folder: Path) -> System:
    card = load_model(folder).card
    details = {key: card.get(key) for key in ("epochs", "best_dev_wer", "training_utterances", "seed")}
    return open_system(name, role_of(context, name), folder, device=str(context.device), details=details)


def role_of(context: RunContext, name: str) -> Role:
    """The part a system plays in the table: `student-kd` and its teacher, `student-hard`, or one beside them."""
    recipe = context.recipe
    if name == "student-hard":
        return "student_hard"
    if name == "student-kd":
        return "student_kd"
    compared = recipe.students.get("student-kd")
    main_teacher = recipe.teacher_of(compared) if compared is not None else next(iter(recipe.teachers))
    return "teacher" if name == main_teacher else "other"


def _export(context: RunContext, name: str) -> Unit:
    recipe, folder, model = context.recipe, context.folder("export", name), model_folders(context)[name]

    def inputs() -> list[Any]:
        identity = [model_sha256(model), sha256_of_file(existing(model / DESCRIPTION, "student"))]
        return [*identity, _word_error_rates(context, name)]  # the bundle states them

    def run(folder: Path) -> None:
        corpus, _ = read_corpus(context)
        waveforms = [read_utterance(u) for u in spread(corpus.dev, recipe.export.verify_utterances)]
        wer = _word_error_rates(context, name)
        info = export_bundle(model, folder, waveforms, recipe=recipe.name, wer=wer, settings=recipe.export)
        say_bundle(context.progress, folder, info)

    return Unit(
        "export",
        name,
        context.work_dir,
        folder,
        settings=recipe.export.model_dump(mode="json"),
        inputs=inputs,
        run=run,
        results=(folder / BUNDLE,),
    )


def _word_error_rates(context: RunContext, name: str) -> dict[str, float]:
    """Test set → WER of a model, from the report if there is one; the bundle carries them."""
    folder = context.folder("report")
    if not (folder / RESULTS).is_file():
        return {}
    key = name if role_of(context, name) == "other" else role_of(context, name)
    found = read_results(folder)["test_sets"]
    return {test_set: row[key]["wer"] for test_set, row in found.items() if key in row}
