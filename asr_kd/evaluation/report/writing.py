"""Write the files of a report: results.json, results.md, results.tex, model cards, hypotheses and index.html.

results.json is written last, so that in a new folder its presence means that the rest is complete.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.card import write_cards
from asr_kd.evaluation.report.evidence import Evidence
from asr_kd.evaluation.report.loading import HYPOTHESES, RESULTS, Report, from_results, rows_text
from asr_kd.evaluation.report.page import page
from asr_kd.evaluation.report.text_renderers import latex, markdown
from asr_kd.evaluation.results import Results
from asr_kd.evaluation.results_json import summarize
from asr_kd.files import atomic_folder, register_files, write_json, write_text

READABLE, LATEX, PAGE, CARDS = "results.md", "results.tex", "index.html", "cards"


def write_report(results: Results, folder: Path, evidence: Sequence[Evidence] = ()) -> dict[str, Any]:
    """Write the report and return the contents of results.json.

    Hypotheses and cards of an earlier evaluation in the same folder are replaced.

    Args:
        evidence: audio and posteriors of single utterances, for the page.

    Raises:
        AsrKdError: the folder cannot be written or the disk is full.
    """
    report = from_results(results, summarize(results))
    summary, document = dict(report.summary), assemble(report)
    register_files(folder, [READABLE, LATEX, PAGE, RESULTS])
    _write_hypotheses(report, folder / HYPOTHESES)
    write_text(folder / READABLE, markdown(document))
    write_text(folder / LATEX, latex(document))
    write_cards(report, folder / CARDS)
    write_text(folder / PAGE, page(report, evidence, results.settings.report))
    write_json(folder / RESULTS, summary)
    return summary


def _write_hypotheses(report: Report, folder: Path) -> None:
    with atomic_folder(folder, guard=True) as partial:
        for name, systems in report.rows.items():
            (partial / name).mkdir()
            for key, rows in systems.items():
                (partial / name / f"{key}.jsonl").write_text(rows_text(rows), encoding="utf-8")
