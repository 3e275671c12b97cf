"""The command line: verbs that parse, call and print. No logic lives here."""

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from asr_kd.errors import AsrKdError
from asr_kd.progress import ConsoleProgress

app = typer.Typer(
    name="asr-kd",
    help="Distil a large acoustic model into a compact streaming one, and prove what it cost.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SYSTEM_TROUBLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE}
)
"""The machine's trouble, wherever it shows: the disk is full, something must not be written, too much is open."""

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.PATH=VALUE", help="Settings to change for this run.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Do it again although nothing changed; the earlier result is set aside.")
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(
        "--max-minutes", min=0.0, help="Stop at a checkpoint after so many minutes (exit code 75); run again to go on."
    ),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="NAME", help="Only this teacher or student; may be repeated.")
]


class Channels(StrEnum):
    """See `asr_kd.audio.ChannelPolicy`."""

    refuse = "refuse"
    first = "first"
    mean = "mean"


def main() -> None:
    """Run the command line; expected trouble is one message and an exit code, never a traceback."""
    # Before torch is imported. On a busy 2-core machine, threads that spin while they wait took 1,685 ms a training
    # step of the tiny model; waiting passively, 107 ms.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("SB_LOG_LEVEL", "WARNING")  # speechbrain announces its precision settings otherwise
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\..*|torchaudio\..*|speechbrain\..*")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except AsrKdError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in SYSTEM_TROUBLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror}. What was finished is kept: mend it and run the same command again")
        sys.exit(1)
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again to go on from the last checkpoint")
        sys.exit(130)


def _complain(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"asr-kd: {message}", markup=False)


@contextmanager
def _console() -> Iterator[ConsoleProgress]:
    progress = ConsoleProgress()
    try:
        yield progress
    finally:
        progress.close()


def _run_stages(
    path: Path,
    overrides: list[str] | None,
    first: str,
    last: str,
    force: bool,
    max_minutes: float | None = None,
    only: list[str] | None = None,
) -> None:
    # Imported here: `--help` and a misspelt verb should not wait for torch.
    from asr_kd.evaluation.provenance import command_line
    from asr_kd.recipe.context import RunContext, choose_device, stop_on
    from asr_kd.recipe.run import run_recipe
    from asr_kd.recipe.settings import load_recipe
    from asr_kd.recipe.summary import print_summary

    recipe = load_recipe(path, overrides or [])
    with _console() as progress, stop_on(max_minutes) as should_stop:
        context = RunContext(recipe, progress, choose_device(recipe.device), should_stop, command_line())
        run_recipe(context, first, last, force, only or ())
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

    What is done is skipped, what was cut off goes on.

    \b
    Example:
      asr-kd run recipes/AN4/an4.yaml students.student-kd.distill.kd_weight=0.3 --from student
    """
    _run_stages(recipe, overrides, first, last, force, max_minutes)


@app.command()
def prepare(recipe: RecipePath, overrides: Overrides = None, force: Force = False) -> None:
    """Find (or make) the corpus and write its manifests and vocabulary.

    \b
    Example:
      asr-kd prepare recipes/AN4/an4.yaml corpus.fold=1
    """
    _run_stages(recipe, overrides, "prepare", "prepare", force)


@app.command()
def check(
    target: Annotated[Path, typer.Argument(metavar="RECIPE.yaml|MANIFEST.jsonl", help="A recipe, or one manifest.")],
    overrides: Overrides = None,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not decode the audio (fast, finds less).")
    ] = False,
) -> None:
    """Report what is wrong with a corpus; exit code 1 when something is.

    \b
    Example:
      asr-kd check recipes/AN4/an4.yaml
    """
    from asr_kd.recipe.check import check_target

    with _console() as progress:
        found = check_target(target, overrides or [], not headers_only, progress)
        progress.close()
        for line in found.lines():
            progress.console.print(line, markup=False)
    if not found.ok:
        raise typer.Exit(1)


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
    _run_stages(recipe, overrides, "teacher", "teacher", force, max_minutes, only)


@app.command()
def extract(
    recipe: RecipePath,
    overrides: Overrides = None,
    only: Only = None,
    force: Force = False,
    max_minutes: MaxMinutes = None,
) -> None:
    """Run the teachers over the training set once and store their soft targets.

    \b
    Example:
      asr-kd extract recipes/AN4/an4.yaml targets.epsilon=0.005
    """
    _run_stages(recipe, overrides, "extract", "extract", force, max_minutes, only)


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
    _run_stages(recipe, overrides, "student", "student", force, max_minutes, only)


@app.command()
def evaluate(recipe: RecipePath, overrides: Overrides = None, force: Force = False) -> None:
    """Score teachers and students on every evaluation set and write the report.

    \b
    Example:
      asr-kd evaluate recipes/AN4/an4.yaml
    """
    _run_stages(recipe, overrides, "evaluate", "evaluate", force)


@app.command()
def export(recipe: RecipePath, overrides: Overrides = None, only: Only = None, force: Force = False) -> None:
    """Export the students as bundles that sherpa-onnx and onnxruntime run, and verify them.

    \b
    Example:
      asr-kd export recipes/AN4/an4.yaml --only student-kd
    """
    _run_stages(recipe, overrides, "export", "export", force, only=only)


@app.command()
def transcribe(
    model: Annotated[
        Path, typer.Argument(metavar="BUNDLE_OR_CHECKPOINT", help="An exported bundle or a trained model's folder.")
    ],
    audio: Annotated[list[Path], typer.Argument(metavar="AUDIO", help="Audio files.")],
    channels: Annotated[Channels, typer.Option(help="What to do with several channels.")] = Channels.refuse,
) -> None:
    """Print what is said in audio files, through the streaming path for a streaming model.

    \b
    Example:
      asr-kd transcribe exp/an4/export/student-kd my-recording.wav
    """
    from asr_kd.runtime.transcribe import transcribe_files

    failed = False
    for path, text, error in transcribe_files(model, audio, channels.value):
        if error is None:
            typer.echo(f"{path}\t{text}")
        else:
            failed = True
            typer.echo(f"asr-kd: {error}", err=True)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
