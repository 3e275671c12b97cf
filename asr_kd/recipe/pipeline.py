"""The stages of a recipe in their order, and the running of those that are not done."""

import functools
from collections.abc import Sequence

from asr_kd.config import user_path
from asr_kd.errors import RecipeError, StoppedEarly
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.extraction import extraction_task, hypotheses_task
from asr_kd.recipe.preparation import prepare_task
from asr_kd.recipe.pseudo_label_tasks import pseudo_label_tasks
from asr_kd.recipe.recipe_checks import key_of
from asr_kd.recipe.result_tasks import evaluate_task, export_task
from asr_kd.recipe.stage import STAGES, StageTask, run_task
from asr_kd.recipe.system_settings import ExistingTeacher
from asr_kd.recipe.training_tasks import student_tasks, teacher_tasks
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX
from asr_kd.targets.storage import URL


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
    tasks, ranks, url = _select(tasks_of(context, force), first, last, only), context.ranks, context.recipe.store_url
    if force and url is not None and any(task.stage == "extract" for task in tasks):
        raise RecipeError(  # results there are not archived: the repeated task would find them finished
            "--force does not apply to targets and hypotheses at store_url",
            where=url,
            remedy="Delete its targets/ or hypotheses/ there, or name another store_url",
        )
    _refuse_missing_labels(context, tasks)
    context.use_threads()
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


def _refuse_missing_labels(context: RunContext, tasks: Sequence[StageTask]) -> None:
    """Refuse students whose imported hypotheses are not there, before hours of earlier stages."""
    recipe, trained = context.recipe, {task.name for task in tasks if task.stage == "student"}
    for name, training in recipe.trainings.items():
        place = training.hypotheses
        if name not in trained or place is None or place in recipe.hypotheses or URL.match(place):
            continue
        folder = user_path(place)
        if not folder.is_relative_to(recipe.work_dir) and not (folder / HYPOTHESES_INDEX).is_file():
            raise RecipeError(
                f"holds no hypotheses ({HYPOTHESES_INDEX})",
                where=folder,
                expected=f"{key_of(recipe, name)}.hypotheses to name one, a URL, or pseudo-labels of the recipe "
                f"({', '.join(recipe.hypotheses) or 'it has none'})",
                remedy="asr-kd pseudo-label or asr-kd targets import fills such a folder",
            )


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


def tasks_of(context: RunContext, force: bool = False) -> list[StageTask]:
    """All tasks of the recipe, in the order they run; with `force` they use nothing that earlier ones kept."""
    recipe = context.recipe
    # Those trained here first: an ensemble may be listed before its members.
    trained_first = sorted(recipe.teachers.items(), key=lambda item: isinstance(item[1], ExistingTeacher))
    return [
        prepare_task(context),
        *(task for name, settings in trained_first for task in teacher_tasks(context, name, settings)),
        *(extraction_task(context, name) for name in recipe.teachers if recipe.target_speeds(name)),
        *(hypotheses_task(context, name) for name in recipe.teachers if recipe.needs_nbest(name)),
        *(task for name, settings in recipe.hypotheses.items() for task in pseudo_label_tasks(context, name, settings)),
        *(task for name, settings in recipe.students.items() for task in student_tasks(context, name, settings)),
        evaluate_task(context, force),
        *(export_task(context, name) for name in context.exported()),
    ]
