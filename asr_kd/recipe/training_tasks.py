"""Training of teachers and students as tasks of their stages."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_kd.corpora.corpus import PreparedCorpus, read_prepared
from asr_kd.corpora.manifest import Utterance, hours
from asr_kd.corpora.settings import FURTHER_SPEECH, UNTRANSCRIBED
from asr_kd.errors import RecipeError, TargetsError
from asr_kd.hub import is_repository
from asr_kd.models.layers import FRAME_OFFSET_MS, FRAME_SHIFT_MS
from asr_kd.models.weights import WEIGHTS, load_model
from asr_kd.progress import Progress
from asr_kd.recipe.context import RunContext, store_sha256, targets_sha256
from asr_kd.recipe.extraction import utterances_to_label
from asr_kd.recipe.labelled_sets import dev_label_hashes, evaluated_corpus
from asr_kd.recipe.stage import StageTask, settings_difference
from asr_kd.recipe.system_settings import (
    AnyTeacher,
    StudentSettings,
    TeacherSettings,
    TrainedTeacher,
    fold_names,
)
from asr_kd.recipe.teachers import (
    bridged_sha256,
    encoder_hashes,
    encoder_sources,
    open_teacher,
    source_hashes,
    source_in_key,
    teacher_sha256,
    teacher_task,
    utterances_of_fold,
)
from asr_kd.targets.bridge import bridge
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesisStore
from asr_kd.targets.pseudo_labelling import in_share
from asr_kd.targets.store import Store
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.training_job import Control, TrainingJob
from asr_kd.training.warm_start import read_sizes, warm_start_sha256


def teacher_tasks(context: RunContext, name: str, settings: AnyTeacher) -> list[StageTask]:
    """Tasks that train a teacher, or one for each fold, and describe one that is not a single model of this run."""
    if isinstance(settings, TrainedTeacher) and settings.folds is None:
        return [_trained(context, name, settings)]
    tasks = []
    if isinstance(settings, TrainedTeacher):
        folds = enumerate(fold_names(name, settings))
        tasks = [replace(_trained(context, fold, settings, number), owner=name) for number, fold in folds]
    return [*tasks, teacher_task(context, name, settings)]


def student_tasks(context: RunContext, name: str, settings: StudentSettings) -> list[StageTask]:
    """Tasks that train a student: one for each stage of its training, which begins from the model of the one before."""
    tasks: list[StageTask] = []
    for stage, chosen in settings.in_stages(name).items():
        if tasks:
            train = chosen.train.model_copy(update={"init_from": context.student_folder(tasks[-1].name) / "model"})
            chosen = chosen.model_copy(update={"train": train})
        tasks.append(replace(_trained(context, stage, chosen), owner=name))
    return tasks


def refuse_other_settings(context: RunContext, names: Sequence[str]) -> None:
    """Refuse to evaluate or export models under settings that they were not trained with.

    Raises:
        RecipeError: names the first setting that differs.
    """
    recipe = context.recipe
    for task in (
        *(task for name, settings in recipe.teachers.items() for task in teacher_tasks(context, name, settings)),
        *(task for name, settings in recipe.students.items() for task in student_tasks(context, name, settings)),
    ):
        difference = settings_difference(task) if task.name in names or task.owner in names else None
        if difference is not None:
            raise RecipeError(
                f"{task.name} was trained with other settings: {difference}",
                where=task.folder,
                expected="a model of this recipe with these overrides",
                remedy=f"Give the overrides of its training, or train it with these: run from the stage {task.stage}",
            )


def _trained(
    context: RunContext, name: str, settings: TrainedTeacher | StudentSettings, fold: int | None = None
) -> StageTask:
    def run(folder: Path) -> None:
        from asr_kd.training.train import train  # with speechbrain and scipy, which other stages need not wait for

        job = _training_job(context, name, settings, fold, task.cache_key())
        if fold is not None:
            report_fold(context.progress, job.train_utterances, context.read_corpus()[0].train)
        train(job, folder, Control(context.device, context.progress, context.stop_reason, context.ranks))

    is_student = isinstance(settings, StudentSettings)
    further = [UNTRANSCRIBED] if _reads_untranscribed(context, settings) else []
    further += [FURTHER_SPEECH] if settings.further_speech else []
    folder = context.student_folder(name) if is_student else context.teacher_folder(name)
    others = {
        **({} if fold is None else {"fold": fold + 1}),
        "seed": context.recipe.seed_of(settings),
        "augmented_copies": _augmented_copies(context, settings),
        **context.recipe.vocabulary.model_dump(mode="json", exclude_defaults=True),
    }
    task = StageTask(
        "student" if is_student else "teacher",
        name,
        context.work_dir,
        folder,
        settings={**_key_settings(context, settings), **others},
        stated={**settings.model_dump(mode="json", exclude_defaults=True), **others},
        inputs=lambda: (
            context.corpus_hashes("train", *further, *read_prepared(context.work_dir).dev_sets)
            + dev_label_hashes(context)
            + _teacher_hashes(context, settings)
            + warm_start_sha256(settings.train)
            + encoder_hashes(context, settings.model)
            + source_hashes(context, encoder_sources(settings.model))
        ),
        run=run,
        results=(folder / "model" / WEIGHTS,),
        parallel=True,
    )
    return task


def _key_settings(context: RunContext, settings: TrainedTeacher | StudentSettings) -> dict[str, Any]:
    """Return the model's own settings as part of its cache key; folders stand there by their content."""
    # What a student is compared with changes the report, not the student.
    plain = {key: value for key, value in settings.key_settings().items() if key not in ("baseline", "stages")}
    for source in encoder_sources(settings.model):
        written = source_in_key(context, source)
        if written != source:
            place, key = (plain["model"], "init") if "model" in plain else (plain["encoder"], "source")
            place[key] = written
    # `warm_start_sha256` is among the inputs
    starts = [str(place) if is_repository(place) else "FOLDER" for place in settings.train.init_models]
    if starts:
        plain["train"]["init_from"] = starts if isinstance(settings.train.init_from, tuple) else starts[0]
    labels = plain.get("hypotheses")
    if labels is not None and labels not in context.recipe.hypotheses and Path(labels).is_dir():
        plain["hypotheses"] = "FOLDER"
    return plain


def _augmented_copies(context: RunContext, settings: TrainedTeacher | StudentSettings) -> dict[str, Any]:
    """Return the settings of the augmented copies that a model trains on, as part of its cache key."""
    copies = context.recipe.targets.perturbed
    return {name: copies[name].model_dump(mode="json") for name in settings.train.augmentation.augmented_copies}


def _reads_untranscribed(context: RunContext, settings: TrainedTeacher | StudentSettings) -> bool:
    student = isinstance(settings, StudentSettings) and settings.learns_untranscribed
    return student and context.recipe.untranscribed is not None


def _teacher_hashes(context: RunContext, settings: TrainedTeacher | StudentSettings) -> list[str]:
    """Hashes of the teacher and of what it left for its students, where a student learns from them."""
    if not isinstance(settings, StudentSettings) or not settings.learns_from_teacher:
        return []
    imported = (
        []
        if settings.hypotheses is None
        else [store_sha256(context.named_hypotheses(settings.hypotheses), HYPOTHESES_INDEX)]
    )
    if not settings.needs_teacher:
        return imported
    teacher = context.recipe.teacher_of(settings)
    hashes = [teacher_sha256(context, teacher)]
    if settings.reads_hypotheses and not imported:
        hashes.append(store_sha256(context.stored_at(context.hypotheses_folder(teacher)), HYPOTHESES_INDEX))
    if settings.reads_store:
        read = settings.distill.needs_arrays if settings.distill is not None else ()
        hashes.append(targets_sha256(context.stored_at(context.targets_folder(teacher)), read))
    return imported + hashes


def _training_job(
    context: RunContext, name: str, settings: TrainedTeacher | StudentSettings, fold: int | None, key: str
) -> TrainingJob:
    corpus, vocabulary = context.read_corpus()
    recipe, seed = context.recipe, context.recipe.seed_of(settings)
    distillation: dict[str, Any] = {"distill": None}
    utterances, card = corpus.train, {"recipe": recipe.name, "corpus": corpus.name, "synthetic": corpus.synthetic}
    if isinstance(settings, StudentSettings):
        distillation = {"distill": settings.distill, **_teacher_data(context, settings, corpus, vocabulary)}
        utterances = _with_transcripts_of(settings, utterances)
        if _reads_untranscribed(context, settings):
            utterances = [*utterances, *corpus.untranscribed]
    elif fold is not None:
        utterances = utterances_of_fold(context, settings, fold)
        card |= {"left_out_fold": [fold + 1, settings.folds]}
    if settings.further_speech:
        utterances = [*utterances, *corpus.further_speech]
        card |= {"further_speech_hours": round(hours(corpus.further_speech), 2)}
    return TrainingJob(
        name=name,
        key=key,
        model=read_sizes(settings.model, next(iter(settings.train.init_models), None)),
        train=settings.train,
        vocabulary=vocabulary,
        normalizer=recipe.vocabulary.normalizer,
        seed=seed,
        train_utterances=utterances,
        dev_utterances=evaluated_corpus(context).dev,
        card={**card, "seed": seed},
        augmented_copies=recipe.targets.perturbed,
        **distillation,
    )


def _with_transcripts_of(student: StudentSettings, utterances: Sequence[Utterance]) -> list[Utterance]:
    """Return the utterances with the transcripts that the student uses; without, only where it is trained on such.

    Raises:
        RecipeError: it needs transcripts, and its share of them is empty.
    """
    share = student.transcript_share
    if share == 1:
        return list(utterances)
    used = [u if in_share(u.id, share) else replace(u, text=None) for u in utterances]
    needs_text = student.distill is None or (student.distill.needs_references and not student.learns_untranscribed)
    kept = [u for u in used if u.text is not None or not needs_text]
    if not kept:
        raise RecipeError(
            f"transcript_share {share:g} holds none of {len(utterances)} training utterances",
            expected="at least one: the share is drawn by their ids",
            remedy="Raise transcript_share, or add training data",
        )
    return kept


def _teacher_data(
    context: RunContext, student: StudentSettings, corpus: PreparedCorpus, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Return the inputs of distillation: a store, hypotheses, or a teacher that runs in training."""
    data: dict[str, Any] = {}
    teacher = context.recipe.teacher_of(student) if student.needs_teacher else ""
    if student.reads_hypotheses:
        data["hypotheses"] = _hypotheses(context, student, teacher)
        data["hypotheses"].check_audio(corpus.train)
    if student.reads_store:
        store = Store.open(
            context.stored_at(context.targets_folder(teacher)),
            vocabulary=vocabulary,
            teacher_sha256=bridged_sha256(context, teacher, vocabulary),
            frame_shift_ms=FRAME_SHIFT_MS,
            frame_offset_ms=FRAME_OFFSET_MS,
        )
        store.check_audio(utterances_to_label(context, teacher, corpus))
        for name, copy in _augmented_copies(context, student).items():
            if store.info.perturbed.get(name) != copy:
                raise TargetsError(
                    f"the targets of the copy {name!r} have other settings than targets.perturbed.{name}",
                    where=store.folder,
                    expected=str(copy),
                    remedy="Run the extract stage first (asr-kd extract)",
                )
        data["store"] = store
    if student.reads_teacher:  # a model of this recipe runs on features, any other teacher on waveforms
        if isinstance(context.recipe.teachers[teacher], TeacherSettings):
            data["dense_teacher"] = load_model(context.teacher_folder(teacher) / "model", context.device).model
        else:
            data["dense_teacher"] = bridge(open_teacher(context, teacher), vocabulary, settings=context.recipe.bridge)
    return data


def _hypotheses(context: RunContext, student: StudentSettings, teacher: str) -> HypothesisStore:
    normalizer = context.recipe.vocabulary.normalizer
    if student.hypotheses is not None:
        return HypothesisStore.open(context.named_hypotheses(student.hypotheses), normalizer)
    return HypothesisStore.open(
        context.stored_at(context.hypotheses_folder(teacher)), normalizer, teacher_sha256(context, teacher)
    )


def report_fold(progress: Progress, used: Sequence[Utterance], everything: Sequence[Utterance]) -> None:
    """Report the training data of a fold's teacher, and the utterances that it will label."""
    ids = {utterance.id for utterance in used}
    left_out = [utterance for utterance in everything if utterance.id not in ids]
    speakers, minutes = len({utterance.speaker for utterance in left_out}), 60 * hours(left_out)
    progress.message(
        f"  trains on {len(used)} utterances ({hours(used):.2f} h); leaves out {len(left_out)} of {speakers} speakers "
        f"({minutes:.1f} min), which it will label"
    )
