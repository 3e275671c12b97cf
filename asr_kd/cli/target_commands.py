"""Commands about what teachers leave for students: targets info, verify, sample and import; pseudo-label."""

from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import HypothesisForm, MaxMinutes, app, console, show
from asr_kd.text.normalize import Normalizer

targets_app = typer.Typer(help="Inspect stored soft targets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(targets_app, name="targets")

StoreArgument = Annotated[
    str, typer.Argument(metavar="STORE", help="Folder of soft targets, or a URL such as s3://bucket/folder.")
]


@targets_app.command()
def info(store: StoreArgument) -> None:
    """Print a store's teacher, size and fidelity.

    \b
    Example:
      asr-kd targets info exp/an4/targets/teacher
    """
    from asr_kd.targets.inspect import summarize

    show(summarize(store))


@targets_app.command()
def verify(store: StoreArgument) -> None:
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
    store: StoreArgument,
    utterance: Annotated[
        str | None, typer.Argument(metavar="ID", help="The utterance; a random one by default.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="The augmented copy; the first one by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the random utterance.")] = None,
) -> None:
    """Print an utterance's frames: time, best token, alternatives, runs of certain blanks.

    \b
    Example:
      asr-kd targets sample exp/an4/targets/teacher an4-0001
    """
    from asr_kd.targets.inspect import sample_lines

    show(sample_lines(store, utterance, variant, seed))


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
    form: Annotated[
        HypothesisForm | None, typer.Option(help="The form of HYPS, when it cannot be detected from its name.")
    ] = None,
    normalizer: Annotated[
        Normalizer | None, typer.Option(help="For a manifest: what texts are rewritten to. A recipe has its own.")
    ] = None,
    min_coverage: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the utterances that must have hypotheses.")
    ] = 0.95,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Readings and filters, as of pseudo-label.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One of these, such as filters.min_avg_logprob=-0.5."),
    ] = None,
) -> None:
    """Import 1-best or n-best of Whisper or any other system, for distillation at sequence level.

    Rows of JSON Lines are {"id", "text"} or {"id", "nbest": [{"text", "score"}]}; CSV with a header, Kaldi's text,
    sclite's trn and ctm are read as well. Numbers are written as words and the filters of pseudo-label are applied, to
    Whisper's measures where they stand in the file. Times of Whisper's JSON assign the text of a long recording to its
    utterances. A student learns from them with distill.level: sequence.

    \b
    Example:
      asr-kd targets import whisper-output recipes/AN4/an4.yaml --into exp/an4/hypotheses/whisper
    """
    from asr_kd.config import apply_overrides, load_yaml, parse_settings
    from asr_kd.recipe.pseudo_labels import import_for
    from asr_kd.targets.pseudo_labelling import LabelSettings

    data = load_yaml(settings) if settings is not None else {}
    chosen = parse_settings(LabelSettings, apply_overrides(data, overrides or []), settings or "--set")
    show(import_for(hypotheses, target, into, form, normalizer, min_coverage, chosen))


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
    """Transcribe speech with Whisper, filter the transcripts, and store them as labels for students.

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
            should_stop=should_stop,
            threads=threads,
            device=device,
        ):
            progress.message(line)
