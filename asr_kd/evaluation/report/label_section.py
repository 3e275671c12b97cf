"""Section of the report on pseudo-labels: what every filter keeps, and the WER of the labels before and after it."""

from asr_kd.evaluation.cells import UNKNOWN, optional, percent
from asr_kd.evaluation.report.document import Cell, ReportTable, Section, SectionBlock
from asr_kd.evaluation.report.loading import Report

_HEADER = ("Filter", "Threshold", "Utterances", "Hours", "WER of the labels %")
_NOTE = (
    "Filters in the order in which they are applied; each row is what is left after it. WER: of the labels against the "
    "corpus' own transcripts, where there are some; training does not use these."
)


def pseudo_label_section(report: Report) -> Section | None:
    """A table for each kind of pseudo-labels; None without any."""
    blocks = []
    for name, found in report.summary.get("pseudo_labels", {}).items():
        rows: list[list[Cell]] = [
            [step["name"], UNKNOWN if step["threshold"] is None else f"{step['threshold']:g}", str(step["kept"]),
             f"{step['hours']:.2f}", optional(step["wer"], percent)]
            for step in found["steps"]
        ]  # fmt: skip
        own = found["from_transcripts"]
        text = f"Labels by {found['source']}." + (f" {own} utterances keep their own transcripts." if own else "")
        tables = [ReportTable(_HEADER, rows, note=_NOTE)] if rows else []
        blocks.append(SectionBlock(title=name, text=text, tables=tables))
    return Section("pseudo-labels", "Pseudo-labels", "Pseudo-labels", "", blocks) if blocks else None
