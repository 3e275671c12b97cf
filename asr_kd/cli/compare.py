"""Command `compare`: compare the reports of several runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from asr_kd.cli.app import app, console


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
