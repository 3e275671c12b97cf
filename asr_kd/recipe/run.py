"""Runs the stages of a recipe that are not yet done, in order."""

from collections.abc import Sequence

import torch

from asr_kd.errors import RecipeError
from asr_kd.recipe.context import RunContext, write_provenance
from asr_kd.recipe.stage import run_unit
from asr_kd.recipe.stages import STAGES, units_of


def run_recipe(
    context: RunContext,
    first: str = STAGES[0],
    last: str = STAGES[-1],
    force: bool = False,
    only: Sequence[str] = (),
) -> bool:
    """Run the stages from `first` to `last`; returns whether anything had to be done.

    Args:
        context: the recipe and where it runs.
        first: the stage to begin with; earlier ones must have run.
        last: the stage to end with.
        force: do these stages again although nothing changed.
        only: names of teachers or students to restrict their stages to.

    Raises:
        RecipeError: no such stage or name, or `last` comes before `first`.
        AsrKdError: whatever a stage meets; finished stages stay finished.
    """
    for stage in (first, last):
        if stage not in STAGES:
            raise RecipeError(f"no stage is called {stage!r}", expected=f"one of {', '.join(STAGES)}")
    begin, end = STAGES.index(first), STAGES.index(last)
    if begin > end:
        raise RecipeError(f"--from {first} comes after --to {last}", expected=f"the order {' → '.join(STAGES)}")
    units = [unit for unit in units_of(context) if begin <= STAGES.index(unit.stage) <= end]
    unknown = [name for name in only if name not in {unit.name for unit in units}]
    if unknown:
        raise RecipeError(
            f"{unknown[0]!r} is not in these stages", expected=f"one of {', '.join(u.name for u in units)}"
        )
    if context.recipe.threads is not None:
        torch.set_num_threads(context.recipe.threads)
    write_provenance(context)
    ran = [run_unit(unit, force, context.progress.message) for unit in units if not only or unit.name in only]
    return any(ran)
