"""The verb that brings in other systems' hypotheses: targets import."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import console
from asr_kd.cli.targets import targets_app


class Form(StrEnum):
    """See `asr_kd.targets.hypothesis_formats.Form`."""

    whisper = "whisper"
    jsonl = "jsonl"
    kaldi = "kaldi"
    trn = "trn"
    ctm = "ctm"


class Normalizer(StrEnum):
    """See `asr_kd.text.normalize.Normalizer`."""

    none = "none"
    librispeech = "librispeech"
    unicode = "unicode"


@targets_app.command("import")
def import_(
    hypotheses: Annotated[
        Path, typer.Argument(metavar="HYPS", help="A file of hypotheses, or a folder of Whisper's JSON files.")
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="RECIPE.yaml|MANIFEST.jsonl", help="Whose utterances: a prepared recipe's, or these."),
    ],
    into: Annotated[str, typer.Option("--into", metavar="FOLDER", help="Where to put them; may be a URL.")],
    form: Annotated[Form | None, typer.Option(help="The form of HYPS, where its name does not say it.")] = None,
    normalizer: Annotated[
        Normalizer | None, typer.Option(help="For a manifest: what texts are rewritten to. A recipe has its own.")
    ] = None,
    min_coverage: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the utterances that must have hypotheses.")
    ] = 0.95,
) -> None:
    """Take in 1-best or n-best of Whisper or any other system, to distil from at the level of sequences.

    Rows of JSON Lines are {"id", "text"} or {"id", "nbest": [{"text", "score"}]}; Kaldi's text, sclite's trn and ctm
    are read as well. A student learns from them with distill.level: sequence.

    \b
    Example:
      asr-kd targets import whisper-output recipes/AN4/an4.yaml --into exp/an4/hypotheses/whisper
    """
    from asr_kd.recipe.hypotheses import import_for

    with console() as progress:
        lines = import_for(
            hypotheses,
            target,
            into,
            form.value if form else None,
            normalizer.value if normalizer else None,
            min_coverage,
        )
        for line in lines:
            progress.message(line)
