"""Write a report as Markdown, its result tables as LaTeX, and its results as tables for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from asr_kd.evaluation.cells import (
    UNKNOWN,
    cost_cells,
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
from asr_kd.evaluation.report.assemble import notices
from asr_kd.evaluation.report.document import Document, Plain, Section, SectionBlock
from asr_kd.evaluation.report.error_sections import known_rates, speaker_rows
from asr_kd.evaluation.report.loading import systems_of

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
        yield pipe_table(
            [escape(cell) for cell in table.header], [list(map(str, row)) for row in table.rows], table.left
        )
        if table.note and table.note not in notes[:place]:
            yield escape(table.note)
    if block.items:
        yield "\n".join(f"- {escape(item)}" for item in block.items)


def _latex_row(cells: Sequence[Any], columns: int) -> str:
    padded = [*(latex_escape(cell) for cell in cells), *[""] * (columns - len(cells))]
    return " & ".join(padded) + r" \\"


PAIRS_SHOWN = 6
"""Pairs of systems; results.json has all."""


def terminal_table(summary: Plain) -> RichTable:
    """All test sets, each with its gaps recovered and tests below; fits a terminal of 80 columns."""
    page = RichTable.grid()
    for line in (*notices(summary), f"Normalizer: {summary['provenance']['normalizer']}."):
        page.add_row(Text(line))
    for name, found in summary["test_sets"].items():
        if "skipped" in found:
            continue
        page.add_row("")
        page.add_row(Text(f"{name}: {set_size(found)}", style="bold"))
        page.add_row(_set_table(found, summary["models"]))
        for line in (*_gap_lines(found), *_pair_lines(found)):
            page.add_row(Text(line))
        if found["excluded"]:
            total = found["utterances"] + len(found["excluded"])
            page.add_row(Text(f"{len(found['excluded'])} of {total} utterances left out, listed in results.md"))
    for line in _seed_lines(summary):
        page.add_row(Text(line))
    return page


def speaker_table(summary: Plain) -> RichTable:
    """Every speaker's WER of every set."""
    page = RichTable.grid()
    for name, found in summary["test_sets"].items():
        keys = [key for key in summary["models"] if key in found and known_rates(found[key])]
        if not keys:
            page.add_row(Text(f"{name}: speakers are not known"))
            continue
        header, rows = speaker_rows(found, keys)
        page.add_row(rich_table(header, rows, left=1))
    return page


def rich_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> RichTable:
    """A compact table; the first `left` columns are text and fold, the others are numbers."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for column, heading in enumerate(header):
        text = column < left
        table.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _set_table(found: Plain, models: Plain) -> RichTable:
    costs = {key: cost_cells(models[key]) for key in systems_of(found)}
    any_cost = any(set(cells) != {UNKNOWN} for cells in costs.values())
    rows = [
        [
            found[key]["name"],
            rate_with_interval(percent(found[key]["wer"]), found[key]["wer_low"], found[key]["wer_high"]),
            "/".join(str(found[key][count]) for count in ("substitutions", "deletions", "insertions")),
            percent(found[key]["cer"]),
            *(cells if any_cost else []),
        ]
        for key, cells in costs.items()
    ]
    header = ["System", "WER % [95 %]", "S/D/I", "CER %", *(("Params", "Size", "RTF") if any_cost else ())]
    return rich_table(header, rows, left=1)


def _gap_lines(found: Plain) -> Iterator[str]:
    pairs = found["comparisons"]
    if len(pairs) > 1:
        for pair in pairs:
            yield f"Gap recovered by {found[pair['distilled']]['name']}: {gap(pair)}"
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


def _seed_lines(summary: Plain) -> Iterator[str]:
    for name, rows in summary["seeds"].items():
        for row in rows:
            recovered = f", gap recovered {gap(row)}" if "gap_recovered" in row else ""
            yield (
                f"{name} on {row['set']}, {len(row['runs'])} runs: WER {percent(row['mean'])} % "
                f"(SD {optional(row['deviation'], percent)}) {interval(row['low'], row['high'])}{recovered}"
            )
