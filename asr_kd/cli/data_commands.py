"""Commands about data: check, download, manifest convert; targets info, verify, sample and import; pseudo-label."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from asr_kd.cli.app import (
    ChannelPolicy,
    HypothesisForm,
    MaxMinutes,
    Overrides,
    app,
    console,
    show,
)
from asr_kd.config import user_path
from asr_kd.corpora.formats import FormatName, ManifestFormat
from asr_kd.text.normalize import Normalizer


@app.command()
def check(
    target: Annotated[
        Path,
        typer.Argument(metavar="RECIPE.yaml|MANIFEST|FOLDER", help="A recipe, a manifest of any format, or audio."),
    ],
    overrides: Overrides = None,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not decode the audio (fast, finds less).")
    ] = False,
) -> None:
    """Report what is wrong with a corpus; exit code 1 when something is.

    \b
    Example:
      asr-kd check recipes/AN4/an4.yaml
    """
    from asr_kd.recipe.preparation import check_target

    with console() as progress:
        found = check_target(target, overrides or [], not headers_only, progress)
        progress.close()
        for line in found.lines():
            progress.console.print(line, markup=False)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def download(
    corpus: Annotated[Literal["librispeech"], typer.Argument(help="The corpus.")],
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
    from asr_kd.corpora.librispeech import download_librispeech, librispeech_folder, missing_splits, require_splits
    from asr_kd.corpora.settings import LibriSpeechSettings, corpora_root

    default = LibriSpeechSettings()
    names = [name for given in splits or [] for name in given.split(",")]
    names = names or [*default.train, *default.dev, *default.test]
    folder = user_path(into) if into is not None else corpora_root(None)
    with console() as progress:
        if check:
            found = librispeech_folder(folder)
            require_splits(found, missing_splits(names, folder), remedy="Run it without --check to download them")
        else:
            found = download_librispeech(names, folder, progress.message)
        progress.message(f"{found}: {', '.join(names)}. Use them in recipes with corpus.root={folder}")


manifest = typer.Typer(
    help="Manifests of lhotse, NeMo, SpeechBrain and Kaldi, from and to this project's.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(manifest, name="manifest")

SHOWN = 20
"""Excluded rows that are printed."""


@manifest.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A manifest: a file, or of Kaldi or lhotse a folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The new file (gzipped if named .gz) or folder.")],
    target_format: Annotated[FormatName, typer.Option("--to", help="The new one's format.")],
    source_format: Annotated[
        ManifestFormat, typer.Option("--from", help="The manifest's format; auto looks.")
    ] = "auto",
    data_root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where relative audio paths start, instead of IN's folder.")
    ] = None,
    channels: Annotated[ChannelPolicy, typer.Option(help="What rows of several channels mean.")] = "refuse",
    max_excluded_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the rows that may be left out (listed).")
    ] = 0.0,
) -> None:
    """Write a manifest in another tool's format; what the format cannot hold is listed.

    \b
    Example:
      asr-kd manifest convert cuts.jsonl.gz train.jsonl --to asr-kd
    """
    from asr_kd.corpora.formats.catalogue import convert as convert_manifest

    done = convert_manifest(
        source,
        target,
        source_format,
        target_format,
        data_root=data_root,
        channels=channels,
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


targets_app = typer.Typer(help="Inspect stored soft targets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(targets_app, name="targets")

StorePlace = Annotated[
    str, typer.Argument(metavar="STORE", help="Folder of soft targets, or a URL such as s3://bucket/folder.")
]


@targets_app.command()
def info(store: StorePlace) -> None:
    """Print a store's teacher, size and fidelity.

    \b
    Example:
      asr-kd targets info exp/an4/targets/teacher
    """
    from asr_kd.targets.inspect import summarize

    show(summarize(store))


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
            should_stop=lambda: should_stop() is not None,
            threads=threads,
            device=device,
        ):
            progress.message(line)
