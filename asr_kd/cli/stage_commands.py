"""Commands on recipes: run, prepare, train, extract, distill, evaluate, export, sweep."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_kd.cli.app import Force, MaxMinutes, Only, Overrides, RecipePath, app, console, numbers

if TYPE_CHECKING:
    from rich.console import Console

    from asr_kd.recipe.context import RunContext
    from asr_kd.targets.sharding import Share


def run_stages(
    path: Path,
    overrides: list[str] | None,
    first: str,
    last: str,
    force: bool,
    max_minutes: float | None = None,
    only: list[str] | None = None,
    share: "Share | None" = None,
) -> None:
    """Run the recipe from stage `first` to stage `last` and print a summary."""
    # Imported here: `--help` and a misspelt verb should not wait for torch.
    from asr_kd.distributed import local_rank, open_ranks
    from asr_kd.evaluation.results import command_line
    from asr_kd.progress import PrefixedProgress
    from asr_kd.recipe.context import RunContext, choose_device, stop_on
    from asr_kd.recipe.pipeline import run_recipe
    from asr_kd.recipe.settings import load_recipe

    under_torchrun = local_rank() is not None
    with stop_on(max_minutes, under_torchrun) as should_stop, open_ranks() as ranks, console() as progress:
        recipe = load_recipe(path, overrides or [])
        device = choose_device(recipe.device, ranks)
        ranks.use(device)
        reported = progress if ranks.first else PrefixedProgress(progress, ranks.name)
        context = RunContext(recipe, reported, device, should_stop, command_line(), ranks, share)
        run_recipe(context, first, last, force, only or ())
        if ranks.first and share is None:  # a share alone does not finish the stage
            print_summary(context, [str(path), *(overrides or [])], last, progress.console)


def print_summary(context: "RunContext", command: list[str], last: str, console: "Console") -> None:
    """Print the results of the stages up to `last`; `command` is the recipe and its overrides."""
    from asr_kd.evaluation.report import Report, read_results
    from asr_kd.evaluation.report.text_renderers import terminal_table
    from asr_kd.export.export_bundle import bundle_places, web_folder
    from asr_kd.recipe.stage import STAGES

    def line(name: str, text: str) -> None:
        console.print(f"{name + ':':9}{text}", markup=False)

    work_dir = context.work_dir
    if last in ("evaluate", "export") and (work_dir / "report" / "results.json").is_file():
        console.print(terminal_table(Report(read_results(work_dir / "report"))))
        page = work_dir / "report" / "index.html"
        line("report", f"{page} (also results.md, results.json, hypotheses/ and cards/)")
    contexts = context.recipe.export.contexts
    bundles = [place for name in context.exported() for place in bundle_places(contexts, work_dir / "export" / name)]
    done = [bundle for bundle in bundles if (bundle / "bundle.json").is_file()]
    if last == "export" and done:
        for bundle in done:
            line("export", f"{bundle}")
        favourite = next((bundle for bundle in done if "student-kd" in bundle.parts[-2:]), done[-1])
        if "web" in context.recipe.export.formats:
            folder = shlex.quote(str(web_folder(favourite)))
            line("page", f"python -m http.server --directory {folder}  then open http://127.0.0.1:8000")
        line("next", f"asr-kd transcribe {shlex.quote(str(favourite))} AUDIO...")
    else:
        following = STAGES[STAGES.index(last) + 1] if last != STAGES[-1] else last
        line("next", f"asr-kd run {shlex.join(command)} --from {following}")


_STAGE_OF_COMMAND = {"train": "teacher", "distill": "student"}
"""Stages whose commands have another name: `run` takes both."""


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    first: Annotated[
        str, typer.Option("--from", metavar="STAGE", help="Begin with this stage; train is teacher, distill student.")
    ] = "prepare",
    last: Annotated[
        str, typer.Option("--to", metavar="STAGE", help="End with this stage; train is teacher, distill student.")
    ] = "export",
    force: Force = False,
    max_minutes: MaxMinutes = None,
) -> None:
    """Run a recipe: prepare → teacher → extract → student → evaluate → export.

    Finished stages are skipped, interrupted ones resume.

    \b
    Example:
      asr-kd run recipes/AN4/an4.yaml students.student-kd.distill.kd_weight=0.3 --from student
    """
    first, last = (_STAGE_OF_COMMAND.get(name, name) for name in (first, last))
    run_stages(recipe, overrides, first, last, force, max_minutes)


def _add_verb(name: str, text: str, options: str = "") -> None:
    @app.command(name, help=_help(name, text, options))
    def run_stage(recipe: RecipePath, overrides: Overrides = None, force: Force = False) -> None:
        run_stages(recipe, overrides, name, name, force)


def _add_training(name: str, stage: str, text: str, options: str) -> None:
    @app.command(name, help=_help(name, text, options))
    def train_models(
        recipe: RecipePath,
        overrides: Overrides = None,
        only: Only = None,
        force: Force = False,
        max_minutes: MaxMinutes = None,
    ) -> None:
        run_stages(recipe, overrides, stage, stage, force, max_minutes, only)


def _help(name: str, text: str, options: str) -> str:
    return f"{text}\n\n\b\nExample:\n  asr-kd {name} recipes/AN4/an4.yaml {options}".rstrip()


_add_verb("prepare", "Find or generate the recipe's corpus and write its manifests and vocabulary.", "corpus.fold=1")
_add_training("train", "teacher", "Train the recipe's teachers.", "--max-minutes 30")


@app.command()
def extract(
    recipe: RecipePath,
    overrides: Overrides = None,
    only: Only = None,
    force: Force = False,
    max_minutes: MaxMinutes = None,
    share: Annotated[
        str | None,
        typer.Option("--share", metavar="I/N", help="Extract only part I of N; set automatically in a Slurm array."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print shards, bytes and hours of soft targets (not n-best); store none.")
    ] = False,
) -> None:
    """Run the teachers over the training set once and store their soft targets.

    \b
    Example:
      asr-kd extract recipes/AN4/an4.yaml targets.epsilon=0.005
    """
    from asr_kd.recipe.context import RunContext, choose_device
    from asr_kd.recipe.extraction import report_plan
    from asr_kd.recipe.settings import load_recipe
    from asr_kd.targets.sharding import EVERYTHING, Share, slurm_share

    part = Share.parse(share) if share else slurm_share()
    if plan:
        settings = load_recipe(recipe, overrides or [])
        with console() as progress:
            report_plan(RunContext(settings, progress, choose_device(settings.device)), part.count, only or [])
        return
    if force and part != EVERYTHING:
        raise typer.BadParameter("each share would archive the results of the others", param_hint="--force")
    if part != EVERYTHING and not share:
        # The array may be meant for something else, such as folds.
        typer.echo(f"This task of a Slurm array extracts share {part}; --share 1/1 extracts everything")
    run_stages(recipe, overrides, "extract", "extract", force, max_minutes, only, None if part == EVERYTHING else part)


_add_training(
    "distill",
    _STAGE_OF_COMMAND["distill"],
    "Train the recipe's students, with and without a teacher.",
    "--only student-kd",
)


_add_verb("evaluate", "Score teachers and students on every evaluation set and write the report.")


@app.command()
def export(recipe: RecipePath, overrides: Overrides = None, only: Only = None, force: Force = False) -> None:
    """Export the recipe's students as bundles for sherpa-onnx, onnxruntime and torch, and verify them.

    Formats, 8-bit weights, latencies and licence are set in the recipe, under `export`.

    \b
    Example:
      asr-kd export recipes/AN4/an4.yaml --only student-kd
    """
    run_stages(recipe, overrides, "export", "export", force, only=only)


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
    """Train and score many settings of one student on the dev sets; only missing rows run.

    \b
    Example:
      asr-kd sweep recipes/AN4/warm.yaml --grid recipes/AN4/grids/screening.yaml --seeds 1
      asr-kd sweep recipes/AN4/warm.yaml --grid distill.kd_weight=[0.3,0.5,0.7] --seeds 1,2,3
    """
    from asr_kd.distributed import local_rank
    from asr_kd.errors import RecipeError
    from asr_kd.evaluation.results import command_line
    from asr_kd.recipe.context import RunContext, choose_device, stop_on
    from asr_kd.recipe.settings import load_recipe
    from asr_kd.recipe.sweep import run_sweep
    from asr_kd.recipe.sweep_grid import load_grid, only_rows, plan, recipe_of
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
    rows = plan(found, numbers(seeds, int, "--seeds"))
    chosen = only_rows(rows, only) if only else rows
    wanted = recipe_of(recipe, overrides or [], found, rows)  # all rows: they share what is extracted
    folder = out or wanted.work_dir / "sweeps" / ("command-line" if "=" in grid[0] else Path(grid[0]).stem)
    with stop_on(max_minutes) as should_stop, console() as progress:
        context = RunContext(wanted, progress, choose_device(wanted.device), should_stop, command_line())
        context.recorded = load_recipe(recipe, overrides or [])
        try:
            run_sweep(context, chosen, folder)
        finally:
            for path in write_tables(rows, folder):
                progress.message(f"{path}")
