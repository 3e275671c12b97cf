"""Verbs about a user's own data and models: check, transcribe."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import Decoding, Hotwords, ModelPath, Overrides, app, console


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


class WordForm(StrEnum):
    """How words are printed with their times."""

    json = "json"
    ctm = "ctm"


@app.command()
def transcribe(
    model: ModelPath,
    audio: Annotated[list[Path], typer.Argument(metavar="AUDIO", help="Audio files, of any length.")],
    channels: Annotated[Channels, typer.Option(help="What to do with several channels.")] = Channels.refuse,
    decoding: Decoding = None,
    hotword: Hotwords = None,
    words: Annotated[
        WordForm | None, typer.Option(help="Print words with times and confidences instead of lines of text.")
    ] = None,
) -> None:
    """Print what is said in audio files, through the streaming path for a streaming model.

    \b
    Example:
      asr-kd transcribe exp/an4/export/student-kd my-recording.wav --words ctm
    """
    from asr_kd.decoding.settings import read_decoding
    from asr_kd.runtime.transcribe import transcribe_files, transcript_lines

    failed = False
    settings = read_decoding(decoding, hotword or [])
    for transcript in transcribe_files(model, audio, channels.value, settings):
        if transcript.error is None:
            typer.echo(transcript_lines(transcript, words.value if words else None), nl=False)
        else:
            failed = True
            typer.echo(f"asr-kd: {transcript.error}", err=True)
    if failed:
        raise typer.Exit(1)
