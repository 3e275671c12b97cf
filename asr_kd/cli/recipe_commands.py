"""Commands that write recipes: recipe ls, recipe cp, init."""

from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import Start, app, console

recipe_app = typer.Typer(help="Recipes that come with asr-kd.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipe_app, name="recipe")


@recipe_app.command("ls")
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
        typer.echo(f"{one.name:{width}}  {one.summary}{' (in a checkout)' if one.needs_checkout else ''}")


@recipe_app.command("cp")
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that recipe ls prints.")],
    target: Annotated[Path | None, typer.Argument(metavar="[DEST]", help="File or folder; else this folder.")] = None,
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
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Audio, transcribed or not, a corpus or manifests.")],
    target: Annotated[Path | None, typer.Argument(metavar="[RECIPE.yaml]", help="Else FOLDER's name.")] = None,
    whisper: Annotated[
        str, typer.Option(metavar="NAME|FOLDER", help="Whisper for audio without transcripts (extra whisper).")
    ] = "openai/whisper-base",
    language: Annotated[str, typer.Option(help="The language of the speech, by Whisper's code.")] = "en",
    start: Annotated[
        Start | None,
        typer.Option(
            help="First weights of the student: random, or Whisper's layers (extra hf). "
            "Default: whisper for audio without transcripts, else conformer."
        ),
    ] = None,
) -> None:
    """Look at a folder of speech and write a recipe for it, ready to run.

    Finds LibriSpeech's and AN4's layouts, manifests of any format, audio with a .txt beside each file, and audio
    alone. Sizes and epochs follow the hours of speech and this machine.

    \b
    Example:
      asr-kd init recordings mine.yaml
      asr-kd init recordings mine.yaml --start whisper
    """
    from asr_kd.recipe.new_recipe import write_recipe

    with console() as progress:
        written = write_recipe(folder, target, progress, whisper=whisper, language=language, start=start)
    typer.echo(f"{written} written. Next: asr-kd check {written}, then asr-kd run {written}")
