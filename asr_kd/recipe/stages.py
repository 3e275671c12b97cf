"""The stages of a recipe as units of work: what each depends on, and which part of the package does it.

No loop over data here: a unit calls its part and says what came out.
"""

from pathlib import Path
from typing import Any

from asr_kd.audio import read_audio
from asr_kd.corpora.prepare import PreparedCorpus, prepare, read_prepared, write_prepared
from asr_kd.corpora.settings import SyntheticSettings, corpora_root
from asr_kd.errors import AsrKdError, CheckpointError, StoppedEarly
from asr_kd.evaluation.evaluate import evaluate_systems, spread
from asr_kd.evaluation.opening import open_system
from asr_kd.evaluation.report import read_results
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.systems import Role, System
from asr_kd.export.bundle import export_bundle
from asr_kd.files import sha256_of_file
from asr_kd.models.weights import DESCRIPTION, load_model
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.settings import StudentSettings, TeacherSettings, learns_from_teacher, reads_store
from asr_kd.recipe.stage import Unit
from asr_kd.targets.extract import ExtractionReport, extract
from asr_kd.targets.store import Store
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


def _unit(context: RunContext, stage: str, name: str, *rest: Any) -> Unit:
    """A unit whose marker lies in the run's `stages/`."""
    label = stage if stage == name else f"{stage}-{name}"
    folder, settings, inputs, run = rest
    return Unit(stage, name, folder, context.folder("stages", f"{label}.json"), settings, inputs, run)


def exported(context: RunContext) -> list[str]:
    """Names of the models that are exported: those the recipe names, or every streaming student."""
    recipe = context.recipe
    return list(recipe.export.models) or [n for n, s in recipe.students.items() if s.model.streaming is not None]


def teacher_folder(context: RunContext, name: str) -> Path:
    """Where a teacher's run and model lie."""
    return context.folder("teachers", name)


def student_folder(context: RunContext, name: str) -> Path:
    """Where a student's run and model lie."""
    return context.folder("students", name)


def targets_folder(context: RunContext, teacher: str) -> Path:
    """Where a teacher's soft targets lie."""
    return context.folder("targets", teacher)


def read_corpus(context: RunContext) -> tuple[PreparedCorpus, Vocabulary]:
    """What the prepare stage wrote.

    Raises:
        CorpusError: it has not run.
    """
    corpus = read_prepared(context.work_dir)
    return corpus, Vocabulary.load(context.folder("manifests", "tokens.txt"))


# -- prepare ---------------------------------------------------------------------------------------------


def _prepare(context: RunContext) -> Unit:
    recipe = context.recipe
    corpus_settings = recipe.corpus.model_dump(mode="json")
    settings = {"corpus": corpus_settings, "vocabulary": recipe.vocabulary.model_dump(mode="json")}

    def inputs() -> str:
        if isinstance(recipe.corpus, SyntheticSettings):
            return ""
        return str(corpora_root(recipe.corpus.root).resolve())

    def run(folder: Path) -> None:
        corpus = prepare(recipe.corpus, context.work_dir, context.progress)
        write_prepared(corpus, context.work_dir)
        normalizer = recipe.vocabulary.normalizer
        vocabulary = Vocabulary.characters(normalize(u.text, normalizer) for u in corpus.train if u.text)
        vocabulary.save(folder / "tokens.txt")
        _say_corpus(context, corpus, vocabulary)

    return _unit(context, "prepare", "prepare", context.folder("manifests"), settings, inputs, run)


def _say_corpus(context: RunContext, corpus: PreparedCorpus, vocabulary: Vocabulary) -> None:
    for name, members in {"train": corpus.train, **corpus.sets}.items():
        seconds = sum(utterance.duration for utterance in members)
        speakers = len({utterance.speaker for utterance in members})
        context.progress.message(f"  {name}: {len(members)} utterances, {seconds / 3600:.2f} h, {speakers} speakers")
    for name, reason in corpus.absent.items():
        context.progress.message(f"  {name}: {reason}")
    if corpus.excluded:
        context.progress.message(
            f"  {len(corpus.excluded)} left out, listed in {context.folder('manifests', 'corpus.json')}"
        )
    context.progress.message(f"  vocabulary: {len(vocabulary)} symbols")


def _manifest_hashes(context: RunContext, *names: str) -> list[str]:
    """Hashes of the vocabulary and of manifests; all of them when none is named.

    Raises:
        AsrKdError: prepare has not run.
    """
    folder = context.folder("manifests")
    paths = [folder / f"{name}.jsonl" for name in names] or sorted(folder.glob("*.jsonl"))
    missing = [path for path in (*paths, folder / "tokens.txt") if not path.is_file()]
    if missing or not paths:
        raise AsrKdError(
            "the corpus is not prepared", where=folder, remedy="Run the prepare stage first (leave --from out)"
        )
    return [sha256_of_file(path) for path in (*paths, folder / "tokens.txt")]


# -- teachers and students -------------------------------------------------------------------------------


def _teacher(context: RunContext, name: str, settings: TeacherSettings) -> Unit:
    def run(folder: Path) -> None:
        _train(context, name, settings, folder)

    own = _training_settings(context, settings)
    return _unit(context, "teacher", name, teacher_folder(context, name), own, lambda: _train_inputs(context), run)


def _student(context: RunContext, name: str, settings: StudentSettings) -> Unit:
    def inputs() -> list[str]:
        taught_by = []
        if learns_from_teacher(settings):
            teacher = context.recipe.teacher_of(settings)
            taught_by = [model_sha256(teacher_folder(context, teacher) / "model")]
            if reads_store(settings):
                taught_by.append(sha256_of_file(_existing(targets_folder(context, teacher) / "store.json", "extract")))
        return _train_inputs(context) + taught_by

    def run(folder: Path) -> None:
        _train(context, name, settings, folder)

    own = _training_settings(context, settings)
    return _unit(context, "student", name, student_folder(context, name), own, inputs, run)


def _training_settings(context: RunContext, settings: TeacherSettings | StudentSettings) -> dict[str, Any]:
    return {**settings.model_dump(mode="json"), "seed": context.recipe.seed}


def _train_inputs(context: RunContext) -> list[str]:
    return _manifest_hashes(context, "train", *read_prepared(context.work_dir).dev_sets)


def _train(context: RunContext, name: str, settings: TeacherSettings | StudentSettings, folder: Path) -> None:
    corpus, vocabulary = read_corpus(context)
    recipe = context.recipe
    store, dense_teacher, distill = None, None, None
    if isinstance(settings, StudentSettings):
        distill = settings.distill
        teacher = recipe.teacher_of(settings)
        if reads_store(settings):
            sha256 = model_sha256(teacher_folder(context, teacher) / "model")
            store = Store.open(targets_folder(context, teacher), vocabulary=vocabulary, teacher_sha256=sha256)
        elif learns_from_teacher(settings):
            dense_teacher = load_model(teacher_folder(context, teacher) / "model", context.device).model
    job = TrainingJob(
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
    train(job, folder, Control(context.device, context.progress, context.should_stop))


def model_sha256(folder: Path) -> str:
    """The identity of a trained model: the hash of its weights.

    Raises:
        CheckpointError: it is not there yet.
    """
    return sha256_of_file(_existing(folder / "model.safetensors", "teacher or student"))


def _existing(path: Path, stage: str) -> Path:
    if not path.is_file():
        raise CheckpointError(
            "is not there yet", where=path, remedy=f"Run the {stage} stage first (start --from earlier)"
        )
    return path


# -- extract ---------------------------------------------------------------------------------------------


def _extract(context: RunContext, teacher: str) -> Unit:
    recipe = context.recipe
    speeds = tuple(sorted({*recipe.targets.speeds, *recipe.target_speeds(teacher)}))
    settings = recipe.targets.model_copy(update={"speeds": speeds})

    def inputs() -> list[str]:
        return [*_manifest_hashes(context, "train"), model_sha256(teacher_folder(context, teacher) / "model")]

    def run(folder: Path) -> None:
        corpus, _ = read_corpus(context)
        model = LocalTeacher(teacher_folder(context, teacher) / "model", device=context.device)
        report = extract(
            model,
            corpus.train,
            settings,
            folder,
            should_stop=lambda: context.should_stop() is not None,
            progress=lambda done, total: context.progress.update(f"extract {teacher}", done, total, "s of audio"),
        )
        _say_extraction(context, folder, report)

    own = settings.model_dump(mode="json")
    return _unit(context, "extract", teacher, targets_folder(context, teacher), own, inputs, run)


def _say_extraction(context: RunContext, folder: Path, report: ExtractionReport) -> None:
    say = context.progress.message
    if not report.complete:
        raise StoppedEarly(
            f"other processes still make {len(report.busy)} shards of {folder} ({report.busy[0]})",
            remedy="Run the same command again when they are done",
        )
    say(f"  {report.frames} frames, {report.bytes_per_frame:.2f} bytes a frame on disk")
    if report.fidelity is not None:
        kept = report.fidelity
        say(
            f"  kept: {kept.entries_per_frame:.2f} entries a frame, KL {kept.kl:.4f} + {kept.tail_divergence:.4f} nats "
            f"in the tail, argmax agreement {100 * kept.argmax_agreement:.2f} %; teacher: entropy "
            f"{kept.teacher_entropy:.3f} nats, blank on {100 * kept.blank_share:.0f} % of frames"
        )
    if report.quarantine:
        say(f"  {len(report.quarantine)} utterances left out, listed in {folder / 'quarantine.jsonl'}")


# -- evaluate and export ---------------------------------------------------------------------------------


def _models(context: RunContext) -> dict[str, Path]:
    recipe = context.recipe
    return {name: teacher_folder(context, name) / "model" for name in recipe.teachers} | {
        name: student_folder(context, name) / "model" for name in recipe.students
    }


def _evaluate(context: RunContext) -> Unit:
    recipe = context.recipe
    models = _models(context)

    def inputs() -> list[str]:
        return _manifest_hashes(context) + [model_sha256(folder) for folder in models.values()]

    def run(folder: Path) -> None:
        corpus, _ = read_corpus(context)
        systems = [_system(context, name, path) for name, path in models.items()]
        facts = RunFacts(
            synthetic=corpus.synthetic, seeds=(recipe.seed,), absent_sets=corpus.absent, command=context.command or None
        )
        evaluate_systems(systems, corpus.sets, recipe.evaluate, folder, facts=facts, progress=context.progress)

    settings = {"evaluate": recipe.evaluate.model_dump(mode="json"), "models": sorted(models)}
    return _unit(context, "evaluate", "evaluate", context.folder("report"), settings, inputs, run)


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
    recipe = context.recipe
    model = _models(context)[name]

    def inputs() -> list[str]:
        return [model_sha256(model), sha256_of_file(_existing(model / DESCRIPTION, "student"))]

    def run(folder: Path) -> None:
        corpus, _ = read_corpus(context)
        waveforms = [
            read_audio(u.audio, duration=u.duration) for u in spread(corpus.dev, recipe.export.verify_utterances)
        ]
        info = export_bundle(
            model, folder, waveforms, recipe=recipe.name, wer=_word_error_rates(context, name), settings=recipe.export
        )
        context.progress.message(
            f"  {folder}: verified, {info.files.model.size_bytes / 1e6:.1f} MB, chunks of {info.streaming.chunk_ms} ms"
        )

    own = recipe.export.model_dump(mode="json")
    return _unit(context, "export", name, context.folder("export", name), own, inputs, run)


def _word_error_rates(context: RunContext, name: str) -> dict[str, float]:
    """Test set → WER of a model, from the report if there is one; the bundle carries them."""
    folder = context.folder("report")
    if not (folder / "results.json").is_file():
        return {}
    key = name if role_of(context, name) == "other" else role_of(context, name)
    found = read_results(folder)["test_sets"]
    return {test_set: row[key]["wer"] for test_set, row in found.items() if key in row}
