"""Commands about recipe files: recipe ls, recipe cp, init."""

from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import app, console

recipe = typer.Typer(help="Recipes that come with asr-kd.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipe, name="recipe")


@recipe.command("ls")
def list_recipes() -> None:
    """List the recipes that come with asr-kd.

    \b
    Example:
      asr-kd recipe ls
    """
    from asr_kd.recipe.packaged_recipes import packaged_recipes

    found = packaged_recipes()
    width = max(len(one.name) for one in found)
    for one in found:
        note = " (in a checkout)" if one.needs_checkout else ""
        typer.echo(f"{one.name:{width}}  {one.summary}{note}")


@recipe.command("cp")
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that recipe ls prints.")],
    target: Annotated[
        Path | None, typer.Argument(metavar="[DEST]", help="A file or a folder; the working folder without it.")
    ] = None,
) -> None:
    """Copy a recipe that comes with asr-kd, to change it.

    \b
    Example:
      asr-kd recipe cp AN4/an4 mine.yaml
    """
    from asr_kd.recipe.packaged_recipes import copy_recipe

    copied = copy_recipe(name, target)
    typer.echo(f"{copied} written. Next: asr-kd run {copied}")


@app.command("init")
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Audio, with or without transcripts, or a corpus or manifests.")
    ],
    target: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE.yaml]", help="The file to write; FOLDER's name without it.")
    ] = None,
    whisper: Annotated[
        str,
        typer.Option(
            metavar="NAME|FOLDER", help="The Whisper model that transcribes audio without transcripts (extra whisper)."
        ),
    ] = "openai/whisper-base",
    language: Annotated[str, typer.Option(help="The language of audio without transcripts.")] = "en",
) -> None:
    """Look at a folder of speech and write a recipe for it, ready to run.

    Finds LibriSpeech's and AN4's layouts, manifests of any format, audio with a .txt beside each file, and audio
    alone. Sizes and epochs follow the hours of speech and this machine.

    \b
    Example:
      asr-kd init recordings mine.yaml
    """
    from asr_kd.recipe.new_recipe import write_recipe

    with console() as progress:
        written = write_recipe(folder, target, progress, whisper=whisper, language=language)
    typer.echo(f"{written} written. Next: asr-kd run {written}")
