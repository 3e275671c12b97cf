"""The command that downloads public corpora: download."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import app, console


class Corpus(StrEnum):
    """Corpora that can be downloaded."""

    librispeech = "librispeech"


@app.command()
def download(
    corpus: Annotated[Corpus, typer.Argument(help="The corpus.")],
    splits: Annotated[
        list[str] | None, typer.Option("--splits", metavar="NAME,…", help="Which splits; may be repeated.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The folder to hold LibriSpeech/; else ASR_KD_CORPORA.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Download nothing; check that the splits exist.")] = False,
) -> None:
    """Download the missing splits of a corpus from its publisher and verify their checksums.

    \b
    Example:
      asr-kd download librispeech --splits train-clean-100,dev-clean --into corpora
    """
    from asr_kd.corpora.download import download_librispeech, librispeech_folder, missing_splits
    from asr_kd.corpora.librispeech import require_splits
    from asr_kd.corpora.settings import LibriSpeechSettings, corpora_root

    default = LibriSpeechSettings()
    names = [name for given in splits or [] for name in given.split(",")]
    names = names or [*default.train, *default.dev, *default.test]
    folder = into.expanduser() if into is not None else corpora_root(None)
    with console() as progress:
        if check:
            found = librispeech_folder(folder)
            require_splits(found, missing_splits(names, folder), remedy="Run it without --check to download them")
        else:
            found = download_librispeech(names, folder, progress.message)
        progress.message(f"{found}: {', '.join(names)}. Use them in recipes with corpus.root={folder}")
