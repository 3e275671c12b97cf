"""Runs the stages of a recipe that are not yet done, in order."""

import functools
from collections.abc import Sequence

import torch

from asr_kd.errors import RecipeError, StoppedEarly
from asr_kd.recipe.context import RunContext, write_provenance
from asr_kd.recipe.stage import Unit, run_unit
from asr_kd.recipe.stages import STAGES, units_of


def run_recipe(
    context: RunContext,
    first: str = STAGES[0],
    last: str = STAGES[-1],
    force: bool = False,
    only: Sequence[str] = (),
) -> bool:
    """Run the stages from `first` to `last`; returns whether anything had to be done. Called by all processes.

    Args:
        context: the recipe and where it runs.
        first: the stage to begin with; earlier ones must have run.
        last: the stage to end with.
        force: do these stages again although nothing changed.
        only: names of teachers or students to restrict their stages to.

    Raises:
        RecipeError: no such stage or name, or `last` comes before `first`.
        StoppedEarly: asked to stop; a unit was finished or its state is saved, so that every call gets further.
        AsrKdError: whatever a stage meets; finished stages stay finished.
    """
    units, ranks = _select(units_of(context), first, last, only), context.ranks
    _refuse_force_elsewhere(context, units, force)
    if context.recipe.threads is not None:
        torch.set_num_threads(context.recipe.threads)
    record = functools.cache(functools.partial(write_provenance, context))
    ran = False
    for unit in units:
        if run_unit(unit, force, context.progress.message, record, ranks):
            ran = True
            reason = next((reason for reason in ranks.gather(context.stop_reason()) if reason), None)
            if reason is not None and unit is not units[-1]:
                raise StoppedEarly(
                    f"stopped ({reason}) after {unit.label}", remedy="Run the same command again to go on"
                )
    return ran


def _refuse_force_elsewhere(context: RunContext, units: Sequence[Unit], force: bool) -> None:
    """What lies below `store_url` is not set aside, so doing it again would find it done."""
    url = context.recipe.store_url
    if force and url is not None and any(unit.stage == "extract" for unit in units):
        raise RecipeError(
            "--force does not reach what lies at store_url",
            where=url,
            remedy="Delete its targets/ or hypotheses/ there, or name another store_url",
        )


def _select(units: Sequence[Unit], first: str, last: str, only: Sequence[str]) -> list[Unit]:
    for stage in (first, last):
        if stage not in STAGES:
            raise RecipeError(f"no stage is called {stage!r}", expected=f"one of {', '.join(STAGES)}")
    begin, end = STAGES.index(first), STAGES.index(last)
    if begin > end:
        raise RecipeError(f"--from {first} comes after --to {last}", expected=f"the order {' → '.join(STAGES)}")
    chosen = [unit for unit in units if begin <= STAGES.index(unit.stage) <= end]
    unknown = [name for name in only if name not in {known for unit in chosen for known in (unit.name, unit.owner)}]
    if unknown:
        raise RecipeError(
            f"{unknown[0]!r} is not in these stages", expected=f"one of {', '.join(unit.name for unit in chosen)}"
        )
    return [unit for unit in chosen if not only or unit.name in only or unit.owner in only]
