"""Commands about decoding and its scores: lm build, lm graph, tune, score, compare."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from asr_kd.cli.app import Only, Overrides, TextSources, app, console, numbers, show
from asr_kd.scoring.transcripts import TextForm
from asr_kd.text.normalize import Normalizer, ScoringNormalizer

lm_app = typer.Typer(help="N-gram language models for the beam search.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(lm_app, name="lm")


@lm_app.command()
def build(
    sources: TextSources,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.arpa[.gz]", help="The model.")],
    order: Annotated[int, typer.Option(min=2, max=6, help="Longest n-gram.")] = 3,
    prune: Annotated[
        str,
        typer.Option(metavar="N,N,…", help="Leave out n-grams of order 1, 2, … seen at most so often, such as 0,0,1."),
    ] = "",
    normalizer: Annotated[Normalizer, typer.Option(help="Normalizer of the text.")] = "librispeech",
    unit: Annotated[
        Literal["word", "token"], typer.Option(help="Words, for a search with a lexicon; or tokens, without one.")
    ] = "word",
    tokens: Annotated[Path | None, typer.Option(metavar="tokens.txt", help="The vocabulary, for tokens.")] = None,
) -> None:
    """Build an n-gram language model from text: interpolated modified Kneser–Ney, as ARPA.

    \b
    Example:
      asr-kd lm build corpora/LibriSpeech/train-clean-100 --out lm/3gram.arpa.gz --prune 0,0,1
    """
    from asr_kd.recipe.language_models import build_lm

    if (unit == "token") != (tokens is not None):
        raise typer.BadParameter(
            "a model over tokens needs their tokens.txt, and only such a model", param_hint="--tokens"
        )
    thresholds = numbers(prune, int, "--prune")
    show(build_lm(sources, out, order, thresholds, normalizer, tokens))


@lm_app.command()
def graph(
    words: Annotated[Path, typer.Argument(metavar="WORDS", help="The words, one a line, or a lexicon.")],
    model: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Whose tokens.txt (and bpe.model) spell them.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.fst", help="The graph.")],
    lm: Annotated[Path | None, typer.Option(metavar="FILE.arpa[.gz]", help="An n-gram model over words.")] = None,
    lm_weight: Annotated[float, typer.Option(min=0.0, help="Factor of its log-probabilities.")] = 1.0,
    word_score: Annotated[float, typer.Option(help="Added for every word.")] = 0.0,
) -> None:
    """Compile words and an n-gram model into the decoding graph that sherpa-onnx takes as --ctc-graph.

    \b
    Example:
      asr-kd lm graph lm/an4.words.txt exp/an4/export/student-kd --lm lm/an4.arpa --out lm/an4.fst
    """
    from asr_kd.decoding.graph import write_graph
    from asr_kd.decoding.lexicon import read_words
    from asr_kd.text.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(model / "tokens.txt")
    report = write_graph(out, vocabulary, read_words(words), lm, lm_weight, word_score)
    left_out = f" ({report.left_out} cannot be spelled and are left out)" if report.left_out else ""
    typer.echo(f"{out}: {report.words} words{left_out}, {report.states} states, {report.arcs} arcs")


@app.command()
def tune(
    target: Annotated[Path, typer.Argument(metavar="RUN_OR_RECIPE", help="A run's folder, or the recipe file.")],
    overrides: Overrides = None,
    only: Only = None,
    lm_weights: Annotated[str, typer.Option(metavar="X,X,…", help="LM weights to try, instead of the usual.")] = "",
    word_scores: Annotated[str, typer.Option(metavar="X,X,…", help="Word scores to try, instead of the usual.")] = "",
) -> None:
    """Find the LM weight and word score of each system on dev; asr-kd evaluate then uses them.

    \b
    Example:
      asr-kd tune exp/an4 'evaluate.decoding={kind: beam, lm: lm/an4.arpa, lexicon: lm/an4.words.txt}'
    """
    from asr_kd.evaluation.tuning import LM_WEIGHTS, WORD_SCORES
    from asr_kd.recipe.language_models import tune_recipe

    weights, scores = numbers(lm_weights, float, "--lm-weights"), numbers(word_scores, float, "--word-scores")
    with console() as progress:
        lines = tune_recipe(target, overrides or [], only or [], progress, weights or LM_WEIGHTS, scores or WORD_SCORES)
        for line in lines:
            progress.message(line)


@app.command()
def score(
    reference: Annotated[
        Path, typer.Argument(metavar="REF", help="References: a manifest, .jsonl, .trn, .ctm, or Kaldi's text.")
    ],
    hypotheses: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]HYP…",
            help="Hypotheses, in the same forms; several files with one NAME are seeds of one system.",
        ),
    ],
    normalizer: Annotated[
        ScoringNormalizer, typer.Option(help="Rewrites both sides; whisper needs the extra of that name.")
    ] = "librispeech",
    by_speaker: Annotated[bool, typer.Option("--by-speaker", help="Print every speaker's WER too.")] = False,
    speakers: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|prefix", help="Kaldi's utt2spk, or prefix: the part of an id before its first - or _."
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="KD,HARD[,TEACHER]", help="A pair to compute the recovered gap of; may be repeated."),
    ] = None,
    samples: Annotated[int, typer.Option(min=200, max=100_000, help="Bootstrap samples.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what results.json holds instead of tables.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the report here: results.json, results.md and more.")
    ] = None,
    write: Annotated[
        TextForm | None,
        typer.Option(help="With --out: the scored texts as well, in FOLDER/FORM, for sclite and others."),
    ] = None,
) -> None:
    """Score hypotheses of any systems, with intervals and a significance test of every pair.

    \b
    Example:
      asr-kd score exp/an4/manifests/devtest.jsonl exp/an4/report/hypotheses/devtest/teacher.jsonl
    """
    from asr_kd.evaluation.report import write_report
    from asr_kd.evaluation.report.text_renderers import terminal_speakers, terminal_table
    from asr_kd.evaluation.score_files import named_file, named_pair, score_files, write_texts
    from asr_kd.evaluation.settings import EvaluationSettings

    if write is not None and out is None:
        raise typer.BadParameter("needs --out", param_hint="--write")
    report = score_files(
        reference,
        [named_file(given) for given in hypotheses],
        EvaluationSettings(normalizer=normalizer, bootstrap_samples=samples, bootstrap_seed=seed),
        speakers,
        [named_pair(given) for given in compare or []],
    )
    if out is not None:
        write_report(report, out)
    if write is not None and out is not None:
        write_texts(report, out / write, write)
    if as_json:
        typer.echo(json.dumps(report.summary, indent=2, ensure_ascii=False))
        return
    with console() as progress:
        progress.console.print(terminal_table(report))
        if by_speaker:
            progress.console.print(terminal_speakers(report))
        if out is not None:
            progress.message(f"report:  {out / 'index.html'} (also results.md, results.json and hypotheses/)")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Work folders of runs, or their results.json.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write compare.html, compare.md and compare.json here.")
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="The runs are one recipe with several seeds: add one row for each system.")
    ] = False,
    samples: Annotated[int, typer.Option(min=200, max=100_000, help="Bootstrap samples.")] = 2_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print what compare.json holds instead of a table.")] = False,
) -> None:
    """Compare the reports of several runs; refused where normalizers or references differ.

    \b
    Example:
      asr-kd compare exp/an4 exp/an4-seed2 --out comparison
    """
    from asr_kd.evaluation.report.compare_report import terminal, write_comparison
    from asr_kd.evaluation.report.compare_runs import compare_runs, open_runs

    found = compare_runs(open_runs(runs), seeds=seeds, samples=samples)
    if out is not None:
        write_comparison(found, out)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    with console() as progress:
        progress.console.print(terminal(found))
        if out is not None:
            progress.message(f"comparison:  {out / 'compare.html'} (also compare.md and compare.json)")
