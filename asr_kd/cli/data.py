"""Verbs about a user's own data and models: check, transcribe."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import Overrides, app, console


class Channels(StrEnum):
    """See `asr_kd.audio.ChannelPolicy`."""

    refuse = "refuse"
    first = "first"
    mean = "mean"


@app.command()
def check(
    target: Annotated[
        Path,
        typer.Argument(metavar="RECIPE.yaml|MANIFEST|FOLDER", help="A recipe, a manifest of any format, or audio."),
    ],
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

    with console() as progress:
        found = check_target(target, overrides or [], not headers_only, progress)
        progress.close()
        for line in found.lines():
            progress.console.print(line, markup=False)
    if not found.ok:
        raise typer.Exit(1)


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
