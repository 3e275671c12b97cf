"""Write a report as Markdown, its result tables as LaTeX, and its results as tables for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from asr_kd.evaluation.cells import (
    escape,
    gap,
    interval,
    only_gap,
    optional,
    percent,
    pipe_table,
    points,
    probability,
    rate_with_interval,
    set_size,
)
from asr_kd.evaluation.report.assemble import SYNTHETIC_NOTICE, notices
from asr_kd.evaluation.report.document import Columns, Document, Plain, ReportTable, Section, table
from asr_kd.evaluation.report.error_sections import known_rates, speaker_table, with_costs
from asr_kd.evaluation.report.loading import Report

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
    texts = [*document.lead, document.settings, document.warning, *document.notices]
    parts = [f"# {escape(document.headline)}", *(escape(text) for text in texts if text)]
    for section in document.sections:
        parts += _section(section)
    facts = [f"- {escape(name)}: {escape(value)}" for name, value in document.facts]
    return "\n\n".join([*parts, "## Where this comes from", "\n".join(facts)]) + "\n"


def _section(section: Section) -> Iterator[str]:
    if section.blocks:
        yield f"## {escape(section.title)}"
        if section.intro:
            yield escape(section.intro)
    for block in section.blocks:
        if block.title:
            yield f"### {escape(block.title)}"
        if block.text:
            yield escape(block.text)
        notes: list[str] = []
        for found in block.tables:
            if found.caption:
                yield f"{escape(found.caption)}:"
            header = [escape(cell) for cell in found.header]
            yield pipe_table(header, [list(map(str, row)) for row in found.rows], found.left)
            if found.note and found.note not in notes:
                yield escape(found.note)
                notes.append(found.note)
        if block.items:
            yield "\n".join(f"- {escape(item)}" for item in block.items)


def latex(document: Document) -> str:
    """The result tables as rows for \\input between \\toprule and \\bottomrule of a table (booktabs).

    Comments state the columns and where the numbers come from.
    """
    blocks = [block for section in document.sections if section.id == "result" for block in section.blocks]
    tables = [(block.title, block.tables[0]) for block in blocks if block.tables]
    columns = max((len(found.header) for _, found in tables), default=1)
    facts = dict(document.facts)
    lines = ["% Rows of a table with the columns"]
    lines += [f"%   {_latex_row(found.header, columns)}" for _, found in tables[:1]]
    lines.append(f"% for \\begin{{tabular}}{{l{'r' * (columns - 1)}}}. {' '.join(document.settings.split())}")
    lines.append(f"% {' '.join(facts['Date'].split())}, {' '.join(facts['Command'].split())}")
    for position, (title, found) in enumerate(tables):
        lines += ["\\midrule"] if position else []
        lines.append(f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{latex_escape(title)}}}}} \\\\")
        lines += [_latex_row(row, columns) for row in found.rows]
    return "\n".join(lines) + "\n"


def latex_escape(text: Any) -> str:
    """Text as LaTeX data: no command, no cell or line ended early."""
    return " ".join("".join(_LATEX.get(symbol, symbol) for symbol in str(text)).split())


def _latex_row(cells: Sequence[Any], columns: int) -> str:
    padded = [*(latex_escape(cell) for cell in cells), *[""] * (columns - len(cells))]
    return " & ".join(padded) + r" \\"


PAIRS_SHOWN = 6
"""Pairs of systems; results.json has all."""
_SYSTEMS: Columns = (
    ("System", "name", str),
    ("WER % [95 %]", "", lambda row: rate_with_interval(percent(row["wer"]), row["wer_low"], row["wer_high"])),
    ("S/D/I", "", lambda row: "/".join(str(row[name]) for name in ("substitutions", "deletions", "insertions"))),
    ("CER %", "cer", percent),
)


def terminal_table(report: Report) -> RichTable:
    """All test sets, each with its gaps recovered and tests below; fits a terminal of 80 columns."""
    facts = report.summary["provenance"]
    warnings = [SYNTHETIC_NOTICE] if facts["synthetic"] else []
    parts: list[Any] = [*warnings, *notices(report), f"Normalizer: {facts['normalizer']}."]
    for name, found in report.sets.items():
        rows = [{**found[key], "model": report.summary["models"][key]} for key in report.systems(name)]
        parts += ["", Text(f"{name}: {set_size(found)}", style="bold")]
        parts += [rich_table(table(with_costs(_SYSTEMS, rows), rows)), *_gap_lines(found), *_pair_lines(found)]
        if found["excluded"]:
            total = found["utterances"] + len(found["excluded"])
            parts.append(f"{len(found['excluded'])} of {total} utterances left out, listed in results.md")
    return stacked([*parts, *_seed_lines(report.summary["seeds"])])


def terminal_speakers(report: Report) -> RichTable:
    """Every speaker's WER of every set."""
    parts: list[Any] = []
    for name, found in report.sets.items():
        keys = [key for key in report.summary["models"] if key in found and known_rates(found[key])]
        parts.append(rich_table(speaker_table(found, keys)) if keys else f"{name}: speakers are not known")
    return stacked(parts)


def stacked(parts: Sequence[str | Text | RichTable]) -> RichTable:
    """Lines and tables below each other; strings are printed as they are, without markup."""
    page = RichTable.grid()
    for part in parts:
        page.add_row(Text(part) if isinstance(part, str) else part)
    return page


def rich_table(found: ReportTable) -> RichTable:
    """A compact table for the terminal; columns of text fold."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for column, heading in enumerate(found.header):
        text = column < found.left
        table.add_column(str(heading), justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for row in found.rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def _gap_lines(found: Plain) -> Iterator[str]:
    pairs = found["comparisons"]
    if len(pairs) > 1:
        for pair in pairs:
            student, baseline = (found[pair[key]]["name"] for key in ("distilled", "baseline"))
            yield f"Gap recovered by {student}, against {baseline}: {gap(pair)}"
    recovered = only_gap(found)
    if recovered is not None:
        yield recovered


def _pair_lines(found: Plain) -> Iterator[str]:
    for pair in found["pairs"][:PAIRS_SHOWN]:
        difference, tested = pair["difference"], pair["mapsswe"]
        test = (
            f"MAPSSWE undefined ({tested['reason']})"
            if tested["p"] is None
            else f"MAPSSWE p {probability(tested['p'])} ({tested['segments']} segments)"
        )
        yield (
            f"{found[pair['first']]['name']} − {found[pair['second']]['name']}: {points(difference['wer'])} points "
            f"{interval(difference['low'], difference['high'])}, {test}"
        )
    if len(found["pairs"]) > PAIRS_SHOWN:
        yield f"… and {len(found['pairs']) - PAIRS_SHOWN} more pairs in results.json"


def _seed_lines(seeds: Plain) -> Iterator[str]:
    for name, rows in seeds.items():
        for row in rows:
            recovered = f", gap recovered {gap(row)}" if "gap_recovered" in row else ""
            yield (
                f"{name} on {row['set']}, {len(row['runs'])} runs: WER {percent(row['mean'])} % "
                f"(SD {optional(row['deviation'], percent)}) {interval(row['low'], row['high'])}{recovered}"
            )
