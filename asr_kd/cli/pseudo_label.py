"""The command that makes pseudo-labels with Whisper: pseudo-label."""

from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import MaxMinutes, app, console


@app.command("pseudo-label")
def pseudo_label_(
    target: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml|MANIFEST.jsonl", help="A prepared recipe's training set, or these.")
    ],
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where to put the labels.")],
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Settings of the pseudo-labels."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as source=whisper:base; may be repeated."),
    ] = None,
    share: Annotated[
        str | None, typer.Option(metavar="N/M", help="Only part N of M of the transcribing, for several processes.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of CTranslate2.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    max_minutes: MaxMinutes = None,
) -> None:
    """Transcribe speech with Whisper, filter the transcripts, and store them for students to learn from.

    Prints what every filter keeps and, where there are transcripts, the WER before and after it. The same command
    resumes after an interruption, and repeats only the filters when their thresholds change.

    \b
    Example:
      asr-kd pseudo-label recipes/LibriSpeech/mini.yaml --into exp/labels --set source=whisper:base --set language=en
    """
    from asr_kd.config import apply_overrides, load_yaml, parse_settings
    from asr_kd.recipe.context import stop_on
    from asr_kd.recipe.pseudo_labels import pseudo_label
    from asr_kd.targets.pseudo_labelling import PseudoLabelSettings
    from asr_kd.targets.sharding import EVERYTHING, Share

    data = load_yaml(settings) if settings is not None else {}
    chosen = parse_settings(PseudoLabelSettings, apply_overrides(data, overrides or []), settings or "--set")
    part = Share.parse(share) if share else EVERYTHING
    with stop_on(max_minutes, False) as should_stop, console() as progress:
        for line in pseudo_label(
            target,
            chosen,
            into,
            progress,
            share=part,
            should_stop=lambda: should_stop() is not None,
            threads=threads,
            device=device,
        ):
            progress.message(line)
