"""The verb that tries many variants of a student."""

from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import MaxMinutes, Overrides, RecipePath, app, console


@app.command()
def sweep(
    recipe: RecipePath,
    overrides: Overrides = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="FILE.yaml|KEY=[…]", help="Rows to try; or a key below the student, repeated."),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N,…", help="Each row with each of these; else the recipe's.")] = "",
    student: Annotated[str | None, typer.Option(help="Which student the rows change; else the grid's.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Rows, table and plots; else sweeps/ in work_dir.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ROW", help="Only this row of the grid; may be repeated.")
    ] = None,
    max_minutes: MaxMinutes = None,
) -> None:
    """Train and score many variants of one student on the dev sets; only missing rows run.

    \b
    Example:
      asr-kd sweep recipes/AN4/warm.yaml --grid recipes/AN4/grids/screening.yaml --seeds 1
      asr-kd sweep recipes/AN4/warm.yaml --grid distill.kd_weight=[0.3,0.5,0.7] --seeds 1,2,3
    """
    from asr_kd.distributed import local_rank
    from asr_kd.errors import RecipeError
    from asr_kd.evaluation.provenance import command_line
    from asr_kd.recipe.context import RunContext, choose_device, stop_on
    from asr_kd.recipe.sweep import run_sweep
    from asr_kd.recipe.sweep_plan import load_grid, only_rows, plan, recipe_of
    from asr_kd.recipe.sweep_table import write_tables

    if not grid:
        raise typer.BadParameter("expected a file, or a key below the student with a list", param_hint="--grid")
    if local_rank() is not None:  # each process would train every row, into the same folders
        raise RecipeError(
            "a sweep under torchrun",
            expected="one process",
            remedy="Start it by `asr-kd sweep`; sweeps of different rows (--only) need work_dirs of their own",
        )
    found = load_grid(grid, student)
    try:
        numbers = [int(seed) for seed in seeds.split(",") if seed.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"{seeds!r} is not a list of whole numbers", param_hint="--seeds") from error
    rows = plan(found, numbers)
    chosen = only_rows(rows, only) if only else rows
    wanted = recipe_of(recipe, overrides or [], found, rows)  # all rows: they share what is extracted
    name = Path(grid[0]).stem if "=" not in grid[0] else "command-line"
    folder = out if out is not None else wanted.work_dir / "sweeps" / name
    with stop_on(max_minutes) as should_stop, console() as progress:
        context = RunContext(wanted, progress, choose_device(wanted.device), should_stop, command_line())
        try:
            run_sweep(context, chosen, folder)
        finally:
            for path in write_tables(rows, folder):
                progress.message(f"{path}")
