"""The report of an evaluation: results as JSON, Markdown, LaTeX and HTML, model cards, and hypotheses.

`loading` holds the data of results.json and of the hypotheses (`Report`). `assemble` turns it into a
`document.Document` of sections, tables and charts (`error_sections`, `model_sections`, `measure_sections`). `page`
writes it as HTML with `charts` and `evidence` (audio and posteriors), `text_renderers` as Markdown, LaTeX and for the
terminal; `writing` writes all files. `compare_runs` and `compare_report` do the same for several runs.
"""

from asr_kd.evaluation.report.loading import RESULTS, Report, open_report, read_results
from asr_kd.evaluation.report.writing import CARDS, HYPOTHESES, READABLE, write_report

__all__ = ["CARDS", "HYPOTHESES", "READABLE", "RESULTS", "Report", "open_report", "read_results", "write_report"]
