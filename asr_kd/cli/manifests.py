"""Verbs about manifests of other tools: manifest convert."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import app, console
from asr_kd.cli.data import Channels

manifest = typer.Typer(
    help="Manifests of lhotse, NeMo, SpeechBrain and Kaldi, from and to this project's.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(manifest, name="manifest")

SHOWN = 20
"""Rows that are spelt out of those left out."""


class Format(StrEnum):
    """See `asr_kd.corpora.formats.catalogue.FormatName`."""

    asr_kd = "asr-kd"
    lhotse = "lhotse"
    nemo = "nemo"
    speechbrain = "speechbrain"
    kaldi = "kaldi"


class SourceFormat(StrEnum):
    """The same, or to be found out."""

    auto = "auto"
    asr_kd = "asr-kd"
    lhotse = "lhotse"
    nemo = "nemo"
    speechbrain = "speechbrain"
    kaldi = "kaldi"


@manifest.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A manifest: a file, or of Kaldi or lhotse a folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The new file (gzipped if named .gz) or folder.")],
    target_format: Annotated[Format, typer.Option("--to", help="The new one's format.")],
    source_format: Annotated[
        SourceFormat, typer.Option("--from", help="The manifest's format; auto looks.")
    ] = SourceFormat.auto,
    data_root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where relative audio paths start, instead of IN's folder.")
    ] = None,
    channels: Annotated[Channels, typer.Option(help="What rows of several channels mean.")] = Channels.refuse,
    max_excluded_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the rows that may be left out (listed).")
    ] = 0.0,
) -> None:
    """Write a manifest in another tool's format; what cannot be said there is listed.

    \b
    Example:
      asr-kd manifest convert cuts.jsonl.gz train.jsonl --to asr-kd
    """
    from asr_kd.corpora.formats.catalogue import convert as convert_manifest

    done = convert_manifest(
        source,
        target,
        source_format.value,
        target_format.value,
        data_root=data_root,
        channels=channels.value,
        max_excluded_share=max_excluded_share,
    )
    with console() as progress:
        progress.message(f"{target}: {done.utterances} utterances")
        for note in done.notes:
            progress.message(f"  {note}")
        for key, count in sorted(done.dropped.items()):
            progress.message(f"  not carried over: {key} ({count} rows)")
        for item in done.excluded[:SHOWN]:
            progress.message(f"  left out: {item.id}  {item.path}  {item.reason}")
        if len(done.excluded) > SHOWN:
            progress.message(f"  … and {len(done.excluded) - SHOWN} more left out")
