"""The stages of a recipe in their order: the tasks of each, what they depend on, and the function that runs them."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from asr_kd.corpora.corpus import PreparedCorpus, is_prepared, manifests_folder, write_prepared
from asr_kd.corpora.fingerprint import fingerprint
from asr_kd.corpora.manifest import hours
from asr_kd.corpora.prepare import add_untranscribed, prepare
from asr_kd.corpora.recordings import read_utterance, refuse_too_many
from asr_kd.corpora.settings import SyntheticSettings
from asr_kd.corpora.synthetic import DESCRIPTION as SYNTHETIC
from asr_kd.corpora.synthetic import synthetic_folder
from asr_kd.corpora.utterance_checks import untrainable
from asr_kd.errors import CorpusError, RecipeError, StoppedEarly
from asr_kd.evaluation.comparison import Comparison
from asr_kd.evaluation.evaluate import evaluate_systems, spread
from asr_kd.evaluation.report import RESULTS
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.system import external_sha256
from asr_kd.export.export_bundle import Origin, bundle_places, export_bundle
from asr_kd.files import register_files, sha256_of_file
from asr_kd.models.weights import DESCRIPTION, WEIGHTS
from asr_kd.progress import Progress
from asr_kd.recipe.context import VOCABULARY, RunContext, existing, model_sha256
from asr_kd.recipe.export_model import greedy_rates, report_bundle
from asr_kd.recipe.extraction import extraction_task, hypotheses_task
from asr_kd.recipe.labelled_sets import (
    dev_label_hashes,
    evaluated_corpus,
    label_reports,
    model_output_hashes,
    model_outputs,
)
from asr_kd.recipe.pseudo_label_tasks import pseudo_label_tasks
from asr_kd.recipe.stage import STAGES, StageTask, run_task, settings_difference
from asr_kd.recipe.system_settings import AnyTeacher, ExistingTeacher, TrainedTeacher, has_layers_only, is_one_model
from asr_kd.recipe.systems import (
    absent_systems,
    curves,
    decoding_inputs,
    facts_of_teachers,
    open_recipe_system,
    seed_rows_of,
    seeds_of,
    system_sha256,
    teacher_of_student,
)
from asr_kd.recipe.teachers import teacher_task
from asr_kd.recipe.training_tasks import student_tasks, trained_teacher_tasks
from asr_kd.runtime.bundle import DESCRIPTION as BUNDLE
from asr_kd.text.bpe import MODEL as BPE
from asr_kd.text.settings import build_vocabulary, vocabulary_fingerprint
from asr_kd.text.vocabulary import Vocabulary


def run_recipe(
    context: RunContext,
    first: str = STAGES[0],
    last: str = STAGES[-1],
    force: bool = False,
    only: Sequence[str] = (),
) -> bool:
    """Run the stages from `first` to `last`; return whether anything had to run. Called by all processes.

    Earlier stages must have run. `force` repeats these although nothing changed; `only` restricts them to teachers or
    students of these names.

    Raises:
        RecipeError: no such stage or name, or `last` comes before `first`.
        StoppedEarly: a time limit or signal; a task was finished or its state is saved, so every call makes progress.
        AsrKdError: any error of a stage; finished stages stay finished.
    """
    tasks, ranks, url = _select(tasks_of(context), first, last, only), context.ranks, context.recipe.store_url
    if force and url is not None and any(task.stage == "extract" for task in tasks):
        raise RecipeError(  # results there are not archived: the repeated task would find them finished
            "--force does not apply to targets and hypotheses at store_url",
            where=url,
            remedy="Delete its targets/ or hypotheses/ there, or name another store_url",
        )
    if context.recipe.threads is not None:
        torch.set_num_threads(context.recipe.threads)
    record = functools.cache(context.write_provenance)
    ran = False
    for task in tasks:
        if run_task(task, force, context.progress.message, record, ranks):
            ran = True
            reason = next((reason for reason in ranks.gather(context.stop_reason()) if reason), None)
            if reason is not None and task is not tasks[-1]:
                raise StoppedEarly(
                    f"stopped ({reason}) after {task.label}", remedy="Run the same command again to continue"
                )
    return ran


def _select(tasks: Sequence[StageTask], first: str, last: str, only: Sequence[str]) -> list[StageTask]:
    for stage in (first, last):
        if stage not in STAGES:
            raise RecipeError(f"no stage is called {stage!r}", expected=f"one of {', '.join(STAGES)}")
    begin, end = STAGES.index(first), STAGES.index(last)
    if begin > end:
        raise RecipeError(f"--from {first} comes after --to {last}", expected=f"the order {' → '.join(STAGES)}")
    chosen = [task for task in tasks if begin <= STAGES.index(task.stage) <= end]
    names = {name for task in chosen for name in (task.name, task.owner)}
    unknown = [name for name in only if name not in names]
    if unknown:
        raise RecipeError(
            f"{unknown[0]!r} is not in these stages", expected=f"one of {', '.join(task.name for task in chosen)}"
        )
    return [task for task in chosen if not only or task.name in only or task.owner in only]


def tasks_of(context: RunContext) -> list[StageTask]:
    """All tasks of the recipe, in the order they run."""
    recipe = context.recipe
    # Those trained here first: an ensemble may be listed before its members.
    trained_first = sorted(recipe.teachers.items(), key=lambda item: isinstance(item[1], ExistingTeacher))
    return [
        _prepare(context),
        *(task for name, settings in trained_first for task in _teacher(context, name, settings)),
        *(extraction_task(context, name) for name in recipe.teachers if recipe.target_speeds(name)),
        *(hypotheses_task(context, name) for name in recipe.teachers if recipe.needs_nbest(name)),
        *(task for name, settings in recipe.hypotheses.items() for task in pseudo_label_tasks(context, name, settings)),
        *(task for name, settings in recipe.students.items() for task in student_tasks(context, name, settings)),
        _evaluate(context),
        *(_export(context, name) for name in context.exported()),
    ]


def _teacher(context: RunContext, name: str, settings: AnyTeacher) -> list[StageTask]:
    trained = trained_teacher_tasks(context, name, settings) if isinstance(settings, TrainedTeacher) else []
    return trained if is_one_model(settings) else [*trained, teacher_task(context, name, settings)]


def _trained_tasks(context: RunContext) -> list[StageTask]:
    """The tasks that train the models of the recipe."""
    recipe = context.recipe
    return [
        *(task for name, settings in recipe.teachers.items() for task in _teacher(context, name, settings)),
        *(task for name, settings in recipe.students.items() for task in student_tasks(context, name, settings)),
    ]


def _refuse_other_settings(trained: Sequence[StageTask], names: Sequence[str]) -> None:
    """Refuse to evaluate or export models under settings that they were not trained with.

    Raises:
        RecipeError: names the first setting that differs.
    """
    for task in trained:
        difference = settings_difference(task) if task.name in names or task.owner in names else None
        if difference is not None:
            raise RecipeError(
                f"{task.name} was trained with other settings: {difference}",
                where=task.folder,
                expected="a model of this recipe with these overrides",
                remedy=f"Give the overrides of its training, or train it with these: run from the stage {task.stage}",
            )


def _prepare(context: RunContext) -> StageTask:
    recipe, folder = context.recipe, manifests_folder(context.work_dir)
    extra = recipe.untranscribed
    results = [folder / "corpus.json", folder / VOCABULARY]
    if isinstance(recipe.corpus, SyntheticSettings):
        results.append(synthetic_folder(recipe.corpus, context.work_dir) / SYNTHETIC)

    def run(folder: Path) -> None:
        corpus = prepare(recipe.corpus, context.work_dir, context.progress)
        if extra is not None:
            corpus = add_untranscribed(corpus, extra, context.progress)
        vocabulary = build_vocabulary(recipe.vocabulary, [u.text for u in corpus.train if u.text])
        _refuse_untrainable(context, corpus, vocabulary)
        files = [VOCABULARY, *([BPE] if vocabulary.bpe is not None else [])]
        register_files(folder, files)
        vocabulary.save(folder / VOCABULARY)
        write_prepared(corpus, context.work_dir, files)
        report_corpus(context.progress, folder, corpus, vocabulary)

    return StageTask(
        "prepare",
        "prepare",
        context.work_dir,
        folder,
        settings={
            "corpus": recipe.corpus.key_settings(),
            "vocabulary": recipe.vocabulary.model_dump(mode="json"),
            **({"untranscribed": extra.key_settings()} if extra is not None else {}),
        },
        inputs=lambda: [
            fingerprint(recipe.corpus),
            vocabulary_fingerprint(recipe.vocabulary),
            *([fingerprint(extra)] if extra is not None else []),
        ],
        run=run,
        results=tuple(results),
        keep_previous=False,
        is_intact=lambda: is_prepared(context.work_dir),
    )


def _refuse_untrainable(context: RunContext, corpus: PreparedCorpus, vocabulary: Vocabulary) -> None:
    """Refuse transcripts of which more than `max_excluded_share` cannot be trained on, where any model needs them.

    Raises:
        CorpusError: the vocabulary or the normalizer is another one than the transcripts need.
    """
    recipe = context.recipe
    if not recipe.trained_on_transcripts:
        return
    transcribed = [utterance for utterance in corpus.train if utterance.text is not None]
    if not transcribed:
        names = ", ".join(recipe.trained_on_transcripts)
        raise CorpusError(
            f"no utterance of the training set has a transcript, which the training of {names} needs",
            where=manifests_folder(context.work_dir),
            expected="transcripts, or models that are trained on a teacher's posteriors or pseudo-labels alone",
            remedy="Set distill.kd_weight to 1 for these students and leave out those without distill; or make "
            "pseudo-labels (asr-kd pseudo-label)",
        )
    found = untrainable(transcribed, vocabulary, recipe.vocabulary.normalizer)
    refuse_too_many(
        found,
        len(transcribed),
        getattr(recipe.corpus, "max_excluded_share", 0.0),
        manifests_folder(context.work_dir),
        "Correct vocabulary.path, vocabulary.normalizer or the transcripts (asr-kd check lists them), or raise "
        "corpus.max_excluded_share to train without them",
        "whose transcript the vocabulary cannot spell or CTC cannot emit",
    )
    if found:
        context.progress.message(
            f"  {len(found)} transcripts cannot be trained on, such as {found[0].id}: {found[0].reason}; asr-kd check "
            "lists them"
        )


def _evaluate(context: RunContext) -> StageTask:
    recipe, folder = context.recipe, context.folder("report")
    names = sorted([*recipe.teachers, *recipe.students])
    stated = {
        name: [student.baseline, student.teacher] for name, student in recipe.students.items() if student.baseline
    }

    def run(folder: Path) -> None:
        corpus = evaluated_corpus(context)
        absent = absent_systems(context)
        outputs = model_outputs(context, folder / "models")
        systems = [
            open_recipe_system(context, name) for name in [*recipe.teachers, *recipe.students] if name not in absent
        ]
        # A student of pseudo-labels is compared with the model that wrote them, where it is evaluated.
        labelling = {
            name: student.hypotheses if student.hypotheses in outputs else None
            for name, student in recipe.students.items()
        }
        pairs = [
            Comparison(name, student.baseline, teacher_of_student(recipe, student) or labelling[name])
            for name, student in recipe.students.items()
            if student.baseline is not None
        ]
        without_posteriors = all(has_layers_only(teacher) for teacher in recipe.teachers.values())
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
            pseudo_labels=label_reports(context),
            roles={next(iter(outputs)): "teacher"} if outputs and without_posteriors else {},
        )
        settings = recipe.evaluate.model_copy(update={"others": {**recipe.evaluate.others, **outputs}})
        evaluate_systems(systems, corpus.sets, settings, folder, facts=facts, progress=context.progress)

    def inputs() -> list[Any]:
        absent = absent_systems(context)
        present = [name for name in [*recipe.teachers, *recipe.students] if name not in absent]
        if not present:
            existing(next(iter(context.model_folders().values())) / WEIGHTS, "teacher or student")
        _refuse_other_settings(_trained_tasks(context), present)
        others = external_sha256(recipe.evaluate.others)
        models = [system_sha256(context, name) for name in present]
        labels = [*dev_label_hashes(context), *model_output_hashes(context), *label_reports(context).items()]
        return context.corpus_hashes() + models + others + decoding_inputs(context, present) + labels

    return StageTask(
        "evaluate",
        "evaluate",
        context.work_dir,
        folder,
        settings={
            "evaluate": recipe.evaluate.key_settings(),
            "models": names,
            **({"pairs": stated} if stated else {}),
        },
        inputs=inputs,
        run=run,
        results=(folder / RESULTS,),
    )


def _export(context: RunContext, name: str) -> StageTask:
    recipe, folder, model = context.recipe, context.folder("export", name), context.model_folders()[name]

    def inputs() -> list[Any]:
        identity = [model_sha256(model), sha256_of_file(existing(model / DESCRIPTION, "student"))]
        _refuse_other_settings(_trained_tasks(context), [name])
        return [*identity, greedy_rates(context.folder("report"), name)[0]]  # the bundle states them

    places = bundle_places(recipe.export.contexts, folder)

    def run(folder: Path) -> None:
        corpus = evaluated_corpus(context)
        waveforms = [read_utterance(u) for u in spread(corpus.dev, recipe.export.verify_utterances)]
        rates, card = greedy_rates(context.folder("report"), name)
        origin = Origin(
            recipe=recipe.name,
            name=name,
            wer=rates,
            card=card,
            held_out=[utterance for members in corpus.sets.values() for utterance in members],
        )
        for place, chosen in places.items():
            settings = recipe.export.model_copy(update={"context": chosen or recipe.export.context})
            info = export_bundle(model, place, waveforms, origin=origin, settings=settings, progress=context.progress)
            report_bundle(context.progress, place, info)

    return StageTask(
        "export",
        name,
        context.work_dir,
        folder,
        settings=recipe.export.model_dump(mode="json"),
        inputs=inputs,
        run=run,
        results=tuple(place / BUNDLE for place in places),
    )


def report_corpus(progress: Progress, folder: Path, corpus: PreparedCorpus, vocabulary: Vocabulary) -> None:
    """Report sizes of the sets, absent sets, and the utterances that were left out."""
    extra = {"untranscribed": corpus.untranscribed} if corpus.untranscribed else {}
    for name, members in {"train": corpus.train, **extra, **corpus.sets}.items():
        speakers = len({utterance.speaker for utterance in members})
        progress.message(f"  {name}: {len(members)} utterances, {hours(members):.2f} h, {speakers} speakers")
    for name, reason in corpus.absent.items():
        progress.message(f"  {name}: {reason}")
    if corpus.excluded:
        progress.message(f"  {len(corpus.excluded)} left out, listed in {folder / 'corpus.json'}")
    progress.message(f"  vocabulary: {len(vocabulary)} symbols")
