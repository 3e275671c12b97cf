"""Commands that score and compare: score, compare."""

import json
from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import app, console
from asr_kd.scoring.transcripts import TextForm
from asr_kd.text.normalize import ScoringNormalizer


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
    from asr_kd.evaluation.report.text_renderers import speaker_table, terminal_table
    from asr_kd.evaluation.results_json import summarize
    from asr_kd.evaluation.score_files import ScoringRequest, named_file, named_pair, score_files, write_texts
    from asr_kd.evaluation.settings import EvaluationSettings

    if write is not None and out is None:
        raise typer.BadParameter("needs --out", param_hint="--write")
    results = score_files(
        ScoringRequest(
            reference,
            [named_file(given) for given in hypotheses],
            EvaluationSettings(normalizer=normalizer, bootstrap_samples=samples, bootstrap_seed=seed),
            speakers,
            [named_pair(given) for given in compare or []],
        )
    )
    summary = summarize(results) if out is None else write_report(results, out)
    if write is not None and out is not None:
        write_texts(results, out / write, write)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    with console() as progress:
        progress.console.print(terminal_table(summary))
        if by_speaker:
            progress.console.print(speaker_table(summary))
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
      asr-kd compare exp/an4 exp/an4-fold1 --out comparison
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
