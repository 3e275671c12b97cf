"""The last stages as tasks: evaluation of all systems, and export of the students."""

from pathlib import Path
from typing import Any

from asr_kd.evaluation.comparison import Comparison
from asr_kd.evaluation.evaluate import evaluate_systems, spread
from asr_kd.evaluation.report import RESULTS
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.resumption import Resumption
from asr_kd.evaluation.system import external_sha256
from asr_kd.export.export_bundle import Origin, bundle_places
from asr_kd.files import sha256_of_file
from asr_kd.models.weights import DESCRIPTION, WEIGHTS
from asr_kd.recipe.context import MODEL_STAGES, RunContext, existing, model_sha256
from asr_kd.recipe.export_model import export_bundles, greedy_rates
from asr_kd.recipe.kept_transcripts import KeptTranscripts
from asr_kd.recipe.labelled_sets import (
    dev_label_hashes,
    evaluated_corpus,
    label_reports,
    model_output_hashes,
    model_outputs,
)
from asr_kd.recipe.stage import StageTask
from asr_kd.recipe.system_settings import has_layers_only
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
from asr_kd.recipe.training_tasks import refuse_other_settings
from asr_kd.runtime.bundle import DESCRIPTION as BUNDLE


def evaluate_task(context: RunContext, force: bool = False) -> StageTask:
    """Task that scores the systems of a recipe on its evaluation sets and writes the report.

    With `force` no transcripts of earlier evaluations are taken.
    """
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
        kept = KeptTranscripts(context, systems)
        known = {} if force else kept.read(list(corpus.sets))
        resumption = Resumption(known, kept.write, context.stop_reason)
        evaluate_systems(systems, corpus.sets, settings, folder, facts, resumption, context.progress)

    def inputs() -> list[Any]:
        absent = absent_systems(context)
        present = [name for name in [*recipe.teachers, *recipe.students] if name not in absent]
        if not present:
            existing(next(iter(context.model_folders().values())) / WEIGHTS, *MODEL_STAGES)
        refuse_other_settings(context, present)
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


def export_task(context: RunContext, name: str) -> StageTask:
    """Task that exports a model as one bundle for each of the recipe's contexts."""
    recipe, folder, model = context.recipe, context.folder("export", name), context.model_folders()[name]

    def inputs() -> list[Any]:
        identity = [model_sha256(model), sha256_of_file(existing(model / DESCRIPTION, *MODEL_STAGES))]
        refuse_other_settings(context, [name])
        return [*identity, greedy_rates(context.folder("report"), name)[0]]  # the bundle states them

    def run(folder: Path) -> None:
        corpus, progress = evaluated_corpus(context), context.progress
        rates, card = greedy_rates(context.folder("report"), name)
        held_out = [utterance for members in corpus.sets.values() for utterance in members]
        normalizer = recipe.evaluate.normalizer
        origin = Origin(recipe=recipe.name, name=name, wer=rates, card=card, held_out=held_out, normalizer=normalizer)
        sample = spread(corpus.dev, recipe.export.verify_utterances)
        export_bundles(model, folder, recipe.export.contexts, recipe.export, sample, origin, progress)

    return StageTask(
        "export",
        name,
        context.work_dir,
        folder,
        settings=recipe.export.key_settings(),
        inputs=inputs,
        run=run,
        results=tuple(place / BUNDLE for place in bundle_places(recipe.export.contexts, folder)),
    )
