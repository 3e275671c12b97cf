"""The typer application, its entry point, and the arguments and console that several commands share."""

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer
from rich.console import Console

import asr_kd
from asr_kd.errors import INTERRUPT_CODE, INTERRUPTED, AsrKdError, is_out_of_memory
from asr_kd.files import full_folder
from asr_kd.progress import ConsoleProgress

app = typer.Typer(
    name="asr-kd",
    help="Distil a large CTC speech recognizer into a small streaming one, evaluate both and export the student.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Repeated from modules that import torch, for which `--help` should not wait; a test compares them.
ChannelPolicy = Literal["refuse", "first", "second", "mean"]
HypothesisForm = Literal["whisper", "jsonl", "csv", "kaldi", "trn", "ctm"]
WordForm = Literal["json", "ctm"]
EngineName = Literal["pico", "espeak"]
Start = Literal["conformer", "whisper"]

N = TypeVar("N", int, float)

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

TextSources = Annotated[
    list[Path],
    typer.Argument(
        metavar="TEXT…",
        help="Text (.txt, .gz), a manifest, a prepared recipe or run (its training set), a LibriSpeech folder.",
    ),
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


def numbers(text: str, kind: type[N], option: str) -> list[N]:
    """Return the numbers of a list such as "0,0,1"; an option that is no such list is wrong usage."""
    try:
        return [kind(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise typer.BadParameter("expected numbers separated by commas, such as 0,0,1", param_hint=option) from None


def show(lines: Iterable[str]) -> None:
    """Print lines of a report."""
    with console() as progress:
        for line in lines:
            progress.message(line)


@contextmanager
def console() -> Iterator[ConsoleProgress]:
    """Yield the terminal's progress and close it at the end."""
    progress = ConsoleProgress()
    try:
        yield progress
    finally:
        progress.close()


SYSTEM_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE}
    | {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE}
)
"""Errors of the system anywhere: full disk, missing permission, a folder that was removed, too many open files."""


def _print_version(given: bool) -> None:
    if given:
        typer.echo(f"asr-kd {asr_kd.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Distil a large acoustic model into a compact streaming one, and prove what it cost."""


def main() -> None:
    """Run the command line; an expected error is one message and an exit code, never a traceback."""
    # Before torch is imported: threads that spin while they wait slow each other down on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("SB_LOG_LEVEL", "WARNING")  # speechbrain announces its precision settings otherwise
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\..*|torchaudio\..*|speechbrain\..*")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except AsrKdError as error:
        _print_error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in SYSTEM_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        if not where and error.errno == errno.ENOSPC:
            where = f"{full_folder(Path.cwd())}: "
        _print_error(f"{where}{error.strerror}. Finished work is kept: fix the cause and run the same command again")
        sys.exit(1)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _print_error(
            f"out of memory ({' '.join(str(error).split())[:200]}). Shorten utterances or batches, and run again"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        _print_error(INTERRUPTED)
        sys.exit(INTERRUPT_CODE)
    except SystemExit as end:
        if end.code == INTERRUPT_CODE:  # typer turns Ctrl-C into this exit code, without a message
            _print_error(INTERRUPTED)
        raise


def _print_error(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"asr-kd: {message}", markup=False)
