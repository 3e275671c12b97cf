"""Commands that run stages of a recipe: run, prepare, train, extract, distill, evaluate, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_kd.cli.app import Force, MaxMinutes, Only, Overrides, RecipePath, app, console

if TYPE_CHECKING:
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
    from asr_kd.evaluation.provenance import command_line
    from asr_kd.progress import PrefixedProgress
    from asr_kd.recipe.context import RunContext, choose_device, stop_on
    from asr_kd.recipe.pipeline import run_recipe
    from asr_kd.recipe.settings import load_recipe
    from asr_kd.recipe.summary import print_summary

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


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    first: Annotated[str, typer.Option("--from", metavar="STAGE", help="Begin with this stage.")] = "prepare",
    last: Annotated[str, typer.Option("--to", metavar="STAGE", help="End with this stage.")] = "export",
    force: Force = False,
    max_minutes: MaxMinutes = None,
) -> None:
    """Run a recipe: prepare → teacher → extract → student → evaluate → export.

    Finished stages are skipped, interrupted ones resume.

    \b
    Example:
      asr-kd run recipes/AN4/an4.yaml students.student-kd.distill.kd_weight=0.3 --from student
    """
    run_stages(recipe, overrides, first, last, force, max_minutes)


@app.command()
def prepare(recipe: RecipePath, overrides: Overrides = None, force: Force = False) -> None:
    """Find or generate the recipe's corpus and write its manifests and vocabulary.

    \b
    Example:
      asr-kd prepare recipes/AN4/an4.yaml corpus.fold=1
    """
    run_stages(recipe, overrides, "prepare", "prepare", force)


@app.command()
def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    only: Only = None,
    force: Force = False,
    max_minutes: MaxMinutes = None,
) -> None:
    """Train the recipe's teachers.

    \b
    Example:
      asr-kd train recipes/AN4/an4.yaml --max-minutes 30
    """
    run_stages(recipe, overrides, "teacher", "teacher", force, max_minutes, only)


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
        bool, typer.Option("--plan", help="Print shards, bytes and hours from a timed sample; store nothing.")
    ] = False,
) -> None:
    """Run the teachers over the training set once and store their soft targets.

    \b
    Example:
      asr-kd extract recipes/AN4/an4.yaml targets.epsilon=0.005
    """
    from asr_kd.targets.sharding import EVERYTHING, Share, slurm_share

    part = Share.parse(share) if share else slurm_share()
    if plan:
        _plan_extraction(recipe, overrides, part.count, only or [])
        return
    if force and part != EVERYTHING:
        raise typer.BadParameter("each share would archive the results of the others", param_hint="--force")
    if part != EVERYTHING and not share:
        # The array may be meant for something else, such as folds.
        typer.echo(f"This task of a Slurm array extracts share {part}; --share 1/1 extracts everything")
    run_stages(recipe, overrides, "extract", "extract", force, max_minutes, only, None if part == EVERYTHING else part)


def _plan_extraction(path: Path, overrides: list[str] | None, workers: int, only: list[str]) -> None:
    from asr_kd.recipe.context import RunContext, choose_device
    from asr_kd.recipe.extraction import report_plan
    from asr_kd.recipe.settings import load_recipe

    with console() as progress:
        recipe = load_recipe(path, overrides or [])
        report_plan(RunContext(recipe, progress, choose_device(recipe.device)), workers, only)


@app.command()
def distill(
    recipe: RecipePath,
    overrides: Overrides = None,
    only: Only = None,
    force: Force = False,
    max_minutes: MaxMinutes = None,
) -> None:
    """Train the recipe's students, with and without a teacher.

    \b
    Example:
      asr-kd distill recipes/AN4/an4.yaml --only student-kd
    """
    run_stages(recipe, overrides, "student", "student", force, max_minutes, only)


@app.command()
def evaluate(recipe: RecipePath, overrides: Overrides = None, force: Force = False) -> None:
    """Score teachers and students on every evaluation set and write the report.

    \b
    Example:
      asr-kd evaluate recipes/AN4/an4.yaml
    """
    run_stages(recipe, overrides, "evaluate", "evaluate", force)


@app.command()
def export(recipe: RecipePath, overrides: Overrides = None, only: Only = None, force: Force = False) -> None:
    """Export the recipe's students as bundles for sherpa-onnx, onnxruntime and torch, and verify them.

    Formats, 8-bit weights, latencies and licence are set in the recipe, under `export`.

    \b
    Example:
      asr-kd export recipes/AN4/an4.yaml --only student-kd
    """
    run_stages(recipe, overrides, "export", "export", force, only=only)
