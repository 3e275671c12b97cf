"""Write a report as Markdown, and its result tables as LaTeX."""

from collections.abc import Iterator, Sequence
from typing import Any

from asr_kd.evaluation.cells import escape, pipe_table
from asr_kd.evaluation.report.document import Document, ReportTable, Section, SectionBlock

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    **{symbol: f"\\{symbol}" for symbol in "&%$#_{}"},
}


def markdown(document: Document) -> str:
    """The report in Markdown, without its charts."""
    parts = [f"# {escape(document.headline.title)}"]
    parts += [escape(sentence) for sentence in document.headline.sentences]
    parts += [escape(document.settings)] if document.settings else []
    parts += [escape(notice.text) for notice in document.notices]
    for section in document.sections:
        parts += _section(section)
    facts = [f"- {escape(name)}: {escape(value)}" for name, value in document.facts]
    return "\n\n".join([*parts, "## Where this comes from", "\n".join(facts)]) + "\n"


def latex(document: Document) -> str:
    """The result tables as rows for \\input between \\toprule and \\bottomrule of a table (booktabs).

    Comments state the columns and where the numbers come from.
    """
    blocks = [block for section in document.sections if section.id == "result" for block in section.blocks]
    tables = [(block.title, block.tables[0]) for block in blocks if block.tables]
    columns = max((len(table.header) for _, table in tables), default=1)
    facts = dict(document.facts)
    lines = ["% Rows of a table with the columns"]
    lines += [f"%   {_latex_row(table.header, columns)}" for _, table in tables[:1]]
    lines.append(f"% for \\begin{{tabular}}{{l{'r' * (columns - 1)}}}. {' '.join(document.settings.split())}")
    lines.append(f"% {' '.join(facts['Date'].split())}, {' '.join(facts['Command'].split())}")
    for position, (title, table) in enumerate(tables):
        lines += ["\\midrule"] if position else []
        lines.append(f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{latex_escape(title)}}}}} \\\\")
        lines += [_latex_row(row, columns) for row in table.rows]
    return "\n".join(lines) + "\n"


def latex_escape(text: Any) -> str:
    """Text as LaTeX data: no command, no cell or line ended early."""
    return " ".join("".join(_LATEX.get(symbol, symbol) for symbol in str(text)).split())


def markdown_table(table: ReportTable) -> str:
    """A table as a pipe table."""
    return pipe_table([escape(cell) for cell in table.header], [[str(cell) for cell in row] for row in table.rows],
                      table.left)  # fmt: skip


def _section(section: Section) -> list[str]:
    parts = [part for block in section.blocks for part in _block(block)]
    if not parts:  # charts only
        return []
    return [f"## {escape(section.title)}", *([escape(section.intro)] if section.intro else []), *parts]


def _block(block: SectionBlock) -> Iterator[str]:
    if block.figures and not block.tables and not block.items:
        return
    if block.title:
        yield f"### {escape(block.title)}"
    if block.text:
        yield escape(block.text)
    notes = [table.note for table in block.tables]
    for place, table in enumerate(block.tables):
        if table.caption:
            yield f"{escape(table.caption)}:"
        yield markdown_table(table)
        if table.note and table.note not in notes[:place]:
            yield escape(table.note)
    if block.items:
        yield "\n".join(f"- {escape(item)}" for item in block.items)


def _latex_row(cells: Sequence[Any], columns: int) -> str:
    padded = [*(latex_escape(cell) for cell in cells), *[""] * (columns - len(cells))]
    return " & ".join(padded) + r" \\"
