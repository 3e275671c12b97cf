"""Verbs about language models: lm build, tune."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from asr_kd.cli.app import Only, Overrides, app, console, numbers, show
from asr_kd.text.normalize import Normalizer

lm_app = typer.Typer(help="N-gram language models for the beam search.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(lm_app, name="lm")


@lm_app.command()
def build(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="TEXT…",
            help="Text (.txt, .gz), a manifest, a prepared recipe or run (its training set), a LibriSpeech folder.",
        ),
    ],
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
      asr-kd tune recipes/AN4/an4.yaml evaluate.decoding.kind=beam evaluate.decoding.lm=lm/an4.arpa
    """
    from asr_kd.evaluation.tuning import LM_WEIGHTS, WORD_SCORES
    from asr_kd.recipe.language_models import tune_recipe

    weights, scores = numbers(lm_weights, float, "--lm-weights"), numbers(word_scores, float, "--word-scores")
    with console() as progress:
        lines = tune_recipe(target, overrides or [], only or [], progress, weights or LM_WEIGHTS, scores or WORD_SCORES)
        for line in lines:
            progress.message(line)
