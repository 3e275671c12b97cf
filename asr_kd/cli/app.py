"""The typer application, and the arguments and console that several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from asr_kd.progress import ConsoleProgress

app = typer.Typer(
    name="asr-kd",
    help="Distil a large acoustic model into a compact streaming one, and prove what it cost.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.PATH=VALUE", help="Settings to change for this run.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Repeat it although nothing changed; the earlier result is kept in previous/.")
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(
        "--max-minutes", min=0.0, help="Stop at a checkpoint after so many minutes (exit code 75); run again to resume."
    ),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="NAME", help="Only this teacher or student; may be repeated.")
]

ModelPath = Annotated[
    Path, typer.Argument(metavar="BUNDLE_OR_CHECKPOINT", help="An exported bundle or a trained model's folder.")
]
Decoding = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A recipe's evaluate.decoding in a file, or what asr-kd tune wrote."),
]
Hotwords = Annotated[
    list[str] | None, typer.Option("--hotword", metavar="PHRASE", help="A word or phrase to prefer; may be repeated.")
]


@contextmanager
def console() -> Iterator[ConsoleProgress]:
    """Yield the terminal's progress and close it at the end."""
    progress = ConsoleProgress()
    try:
        yield progress
    finally:
        progress.close()
