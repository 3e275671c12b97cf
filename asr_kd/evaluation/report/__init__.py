"""The report's files: results as JSON, Markdown, LaTeX and model cards, hypotheses, and the page that shows them.

`evidence` gathers what only the systems can tell, while they are open; everything else works on the plain data of
`summary` and the rows of hypotheses, fresh or read again (`loading`). Knows nothing of how numbers were measured.
"""

from asr_kd.evaluation.report.files import CARDS, HYPOTHESES, READABLE, write_report
from asr_kd.evaluation.report.loading import RESULTS, Report, open_report, read_results

__all__ = ["CARDS", "HYPOTHESES", "READABLE", "RESULTS", "Report", "open_report", "read_results", "write_report"]
