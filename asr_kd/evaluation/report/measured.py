"""The page's sections about what an evaluation measured beside errors: delay, agreement, context, conditions.

Each is there when results.json has its numbers. Knows plain data only.
"""

from asr_kd.evaluation.report.blocks import Section
from asr_kd.evaluation.report.cast import Cast
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.report.sections import Looks


def measured_sections(report: Report, looks: Looks, cast: Cast) -> list[Section]:
    """Those that this report has numbers for."""
    return []
