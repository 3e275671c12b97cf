"""Commands about corpora: check, download, manifest convert, synthesize."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from asr_kd.cli.app import (
    ChannelPolicy,
    EngineName,
    Overrides,
    TextSources,
    app,
    console,
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


@app.command()
def synthesize(
    sources: TextSources,
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where to put the audio and its manifest.")],
    hours: Annotated[float, typer.Option(min=0.001, help="Hours of speech.")],
    engine: Annotated[EngineName, typer.Option(help="SVOX Pico (extra pico) or eSpeak NG (synthetic).")] = "pico",
    speakers: Annotated[int, typer.Option(min=1, help="Voices at rates and pitches of their own.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the order of the text and of the speakers.")] = 0,
    normalizer: Annotated[Normalizer, typer.Option(help="Normalizer of the text.")] = "librispeech",
) -> None:
    """Synthesize speech from English text, for training: words that the recorded training speech does not hold.

    Name the manifest it writes under further_speech of a recipe, and set further_speech: true for a teacher. A student
    that is trained on it becomes worse where it was measured.

    \b
    Example:
      asr-kd synthesize train-clean-100.text.gz --into exp/spoken --hours 7
    """
    from asr_kd.corpora.spoken_text import SynthesisSettings, synthesize_text
    from asr_kd.recipe.language_models import training_sentences

    text = (sentence for source in sources for sentence in training_sentences(source, normalizer))
    with console() as progress:
        settings = SynthesisSettings(hours, engine, speakers, seed)
        for line in synthesize_text(text, into, settings, progress):
            progress.message(line)
