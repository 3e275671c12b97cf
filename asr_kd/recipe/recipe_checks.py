"""Which parts of a recipe do not fit together: names, teachers, students, the corpus."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from asr_kd.corpora.settings import FolderSettings, OwnSettings
from asr_kd.recipe.system_settings import (
    AnyTeacher,
    ExistingTeacher,
    StudentSettings,
    TrainedTeacher,
    fold_names,
    is_one_model,
    layers_and_width,
    nbest_task_name,
    transcripts_task_names,
)
from asr_kd.teachers.settings import parse_source

if TYPE_CHECKING:
    from asr_kd.recipe.settings import Recipe


def problems(recipe: "Recipe") -> Iterator[str]:
    """What does not fit together, a message each; every check may rely on those before it."""
    yield from _name_problems(recipe)
    for name, teacher in recipe.teachers.items():
        yield from _teacher_problems(recipe, name, teacher)
    for name, student in recipe.trainings.items():
        yield from _student_problems(recipe, name, student)
    systems: dict[str, AnyTeacher | StudentSettings] = {**recipe.teachers, **recipe.students}
    for name, system in {**systems, **recipe.trainings}.items():
        if isinstance(system, ExistingTeacher):
            continue
        inner, layers = system.train.inner_layers, system.model.num_layers
        if any(not 1 <= layer < layers for layer in inner):
            yield (
                f"{name}: train.inner_layers {list(inner)} must lie from 1 to {layers - 1}, below the last of its "
                f"{layers} layers"
            )
        for each in sorted(set(system.train.augmentation.augmented_copies) - set(recipe.targets.perturbed)):
            known = ", ".join(recipe.targets.perturbed) or "none"
            yield f"{name}: train.augmentation.augmented_copies names {each!r}; targets.perturbed has {known}"
    yield from _corpus_problems(recipe)
    for name in recipe.export.models:
        if name not in systems:
            yield f"export.models names {name!r}; known: {', '.join(systems)}"
        elif name in recipe.teachers and not is_one_model(recipe.teachers[name]):
            yield f"export.models names {name!r}, which this recipe does not train as one model"
        elif isinstance(system := systems[name], ExistingTeacher) or system.model.streaming is None:
            yield f"export.models names {name!r}, a full-context model; only streaming models are exported"
    for name in recipe.evaluate.others:
        labels = recipe.hypotheses.get(name)
        if name in systems or (labels is not None and labels.evaluate):
            owner = "of this recipe" if name in systems else "whose outputs hypotheses have"
            yield f"evaluate.others.{name} has the name of a system {owner}; rename it"


def _name_problems(recipe: "Recipe") -> Iterator[str]:
    """Systems, pseudo-labels, and the tasks that are named after them need names of their own."""
    taken: dict[str, str] = {}
    owners = (
        *((name, "a teacher") for name in recipe.teachers),
        *((name, "a student") for name in recipe.students),
        *((name, "pseudo-labels") for name in recipe.hypotheses),
        *(
            (fold, f"a fold's teacher of {name!r}")
            for name, t in recipe.teachers.items()
            for fold in fold_names(name, t)
        ),
        *(
            (s, f"a stage of {name!r}")
            for name, each in recipe.students.items()
            for s in each.in_stages(name)
            if s != name
        ),
    )
    for name, owner in owners:
        if name in taken:
            yield f"{name!r} is the name of {taken[name]} and of {owner}; rename one"
        taken[name] = owner
    extracted = {*filter(recipe.target_speeds, recipe.teachers), *recipe.hypotheses}
    tasks = {nbest_task_name(name): f"the n-best of {name!r}" for name in filter(recipe.needs_nbest, recipe.teachers)}
    for name in recipe.hypotheses:
        tasks |= {task: f"Whisper's transcripts for {name!r}" for task in transcripts_task_names(name)}
    for task in sorted(tasks.keys() & extracted):
        yield f"{task!r} is the name of {taken[task]} and of the task for {tasks[task]}; rename one"


def _corpus_problems(recipe: "Recipe") -> Iterator[str]:
    """Audio without transcripts needs students that learn from it, and they need some."""
    trains_on_them = [name for name, student in recipe.trainings.items() if student.learns_untranscribed]
    if recipe.untranscribed is not None and not trains_on_them:
        yield "untranscribed: no student has distill.untranscribed: true, so it would not be used"
    trained = {name: each for name, each in recipe.teachers.items() if isinstance(each, TrainedTeacher)}
    learns = [
        *(f"teachers.{name}" for name, teacher in trained.items() if teacher.further_speech),
        *(key_of(recipe, name) for name, student in recipe.trainings.items() if student.further_speech),
    ]
    if recipe.further_speech is not None and not learns:
        yield "further_speech: no teacher or student has further_speech: true, so it would not be used"
    if recipe.further_speech is None:
        for key in learns:
            yield f"{key}.further_speech is true without further_speech.manifests; name them there"
    has_such = recipe.untranscribed is not None or isinstance(recipe.corpus, OwnSettings)
    for name in trains_on_them:
        if not has_such and recipe.trainings[name].transcript_share == 1:
            yield (
                f"{key_of(recipe, name)}.distill.untranscribed: everything in the corpus is transcribed; name folders "
                "of further audio under untranscribed"
            )
    if not isinstance(recipe.corpus, FolderSettings) or recipe.corpus.dev:
        return
    # A dev set without transcripts needs pseudo-labels, which are made after the teachers are trained.
    if not recipe.hypotheses:
        yield (
            "corpus.dev is not given and nothing under hypotheses transcribes a held-out part; give transcribed "
            "manifests as corpus.dev, or pseudo-labels of Whisper as hypotheses"
        )
    for name in trained:
        yield f"teachers.{name} is trained on transcripts, and the corpus has none: give corpus.dev"


def _teacher_problems(recipe: "Recipe", name: str, teacher: AnyTeacher) -> Iterator[str]:
    """Members of an ensemble must be there; only single models of this project have layers to store."""
    if isinstance(teacher, ExistingTeacher):
        trained = [
            model
            for other, one in recipe.teachers.items()
            if not isinstance(one, ExistingTeacher)
            for model in fold_names(other, one) or [other]
        ]
        for member in teacher.members:
            kind, place, _ = parse_source(member.source)
            if kind == "recipe" and place not in trained:
                yield (
                    f"teachers.{name}.source names {member.source!r}; teachers that this recipe trains: "
                    f"{', '.join(trained) or 'none'}"
                )
    if not recipe.target_speeds(name):
        return
    if fold_names(name, teacher):
        if recipe.target_layers(name):
            yield (
                f"teachers.{name}.folds: the hidden layers of teachers trained separately are not comparable; "
                "leave targets.layers and the objective `representation` out, or the folds"
            )
    elif recipe.targets.layers:  # those that students match are checked with them
        layers = layers_and_width(teacher)[0]
        if layers is None:
            yield (
                "targets.layers needs teachers that are one model of this project's own, trained here or `local:`, or "
                f"an `encoder:`, and {name!r} is neither"
            )
        elif recipe.targets.layers[-1] > layers:
            yield f"targets.layers {list(recipe.targets.layers)} must lie from 1 to {layers}, the layers of {name!r}"


def _student_problems(recipe: "Recipe", name: str, student: StudentSettings) -> Iterator[str]:
    """Its teacher and baseline must be there, and its objectives must fit both models."""
    known, key = ", ".join(recipe.teachers) or "none", key_of(recipe, name)
    if student.teacher is not None and student.teacher not in recipe.teachers:
        yield f"{key}.teacher is {student.teacher!r}; known: {known}"
    if student.baseline == name:
        yield f"{key}.baseline is that student itself"
    others = [other for other, settings in recipe.students.items() if not settings.learns_from_teacher]
    if student.baseline is not None and student.baseline not in others:
        yield (f"{key}.baseline is {student.baseline!r}; students without a teacher: {', '.join(others) or 'none'}")
    if student.hypotheses is not None and not student.reads_hypotheses:
        yield f"{key}.hypotheses is read with distill.level: sequence only"
    labels, own = student.hypotheses, recipe.hypotheses
    if labels is not None and own and labels not in own and "/" not in labels and not Path(labels).is_dir():
        yield f"{key}.hypotheses is {labels!r}, no folder; known under hypotheses: {', '.join(own)}"
    teacher = None
    if student.needs_teacher:
        if not recipe.teachers:
            yield f"{key}.distill needs a teacher, and the recipe has none"
        if student.teacher is None and len(recipe.teachers) > 1:
            yield f"{key}.teacher must name one of: {known}"
        teacher = recipe.teachers[recipe.teacher_of(student)]
    yield from (
        f"{key}.{problem}"
        for problem in student.objective_problems(teacher, recipe.teacher_of(student) if teacher else "")
    )


def key_of(recipe: "Recipe", training: str) -> str:
    """Where the recipe has a training: `students.NAME`, or `students.NAME.stages.0` for an earlier stage."""
    if training in recipe.students:
        return f"students.{training}"
    student, _, number = training.rpartition("-stage-")
    return f"students.{student}.stages.{int(number) - 1}"
