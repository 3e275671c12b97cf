"""Verbs about stored soft targets: info, verify, sample."""

from typing import Annotated

import typer

from asr_kd.cli.app import app, console

targets_app = typer.Typer(help="Look into stored soft targets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(targets_app, name="targets")

StorePlace = Annotated[
    str, typer.Argument(metavar="STORE", help="Folder of soft targets, or a URL such as s3://bucket/folder.")
]


@targets_app.command()
def info(store: StorePlace) -> None:
    """Say whose targets these are, how large, and what they keep.

    \b
    Example:
      asr-kd targets info exp/an4/targets/teacher
    """
    from asr_kd.targets.inspect import summarize

    with console() as progress:
        for line in summarize(store).lines():
            progress.message(line)


@targets_app.command()
def verify(store: StorePlace) -> None:
    """Hash every file that the index names; exit code 1 when something is damaged or missing.

    \b
    Example:
      asr-kd targets verify exp/an4/targets/teacher
    """
    from asr_kd.targets.inspect import verify as verify_store

    with console() as progress:
        found = verify_store(store, progress)
        for line in found.lines():
            progress.message(line)
    if not found.ok:
        raise typer.Exit(1)


@targets_app.command()
def sample(
    store: StorePlace,
    utterance: Annotated[str | None, typer.Argument(metavar="ID", help="Which one; a random one otherwise.")] = None,
    variant: Annotated[str | None, typer.Option(help="Which speed; the first one otherwise.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the same random utterance again.")] = None,
) -> None:
    """Print an utterance's frames: time, best token, alternatives, runs of certain blanks.

    \b
    Example:
      asr-kd targets sample exp/an4/targets/teacher an4-0001
    """
    from asr_kd.targets.lattice import sample_lines

    with console() as progress:
        for line in sample_lines(store, utterance, variant, seed):
            progress.message(line)
