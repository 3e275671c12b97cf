"""The report of an evaluation: results as JSON, Markdown, LaTeX and HTML, model cards, and hypotheses.

`assemble` turns the plain data of results.json into a `Document` of sections, tables and charts; `html_renderer` and
`text_renderers` write it.
"""

from asr_kd.evaluation.report.loading import RESULTS, Report, open_report, read_results
from asr_kd.evaluation.report.writing import CARDS, HYPOTHESES, READABLE, write_report

__all__ = ["CARDS", "HYPOTHESES", "READABLE", "RESULTS", "Report", "open_report", "read_results", "write_report"]
