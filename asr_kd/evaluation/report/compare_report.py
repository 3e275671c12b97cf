"""A comparison of runs as a report: for the terminal, as Markdown, and as a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table as RichTable
from rich.text import Text

from asr_kd.evaluation.cells import interval, millions, percent, points, rate_with_interval, short_factor
from asr_kd.evaluation.report.document import (
    Cell,
    Document,
    Figure,
    Forest,
    Headline,
    Plain,
    Point,
    ReportTable,
    Scatter,
    Section,
    SectionBlock,
    SystemStyle,
    style_of_role,
)
from asr_kd.evaluation.report.page import render
from asr_kd.evaluation.report.text_renderers import markdown, rich_table
from asr_kd.files import register_files, write_json, write_text

_HEADER = (
    "Run", "System", "WER %", "95 % interval", "against the first", "95 % interval", "CER %", "Parameters", "RTF"
)  # fmt: skip
_LEGEND = (
    "Against the first: WER minus that of the same system in the first run that has it, in points, with a paired "
    "interval over the same speakers (or utterances)."
)


def write_comparison(found: Plain, folder: Path) -> None:
    """Write compare.json, compare.md and compare.html.

    Raises:
        AsrKdError: the folder cannot be written or the disk is full.
    """
    register_files(folder, ["compare.md", "compare.html", "compare.json"])
    document = comparison_document(found)
    write_text(folder / "compare.md", markdown(document))
    write_text(folder / "compare.html", render(document))
    write_json(folder / "compare.json", found)


def comparison_document(found: Plain) -> Document:
    """The comparison as a report."""
    sections = [_section(place, name, rows) for place, (name, rows) in enumerate(found["sets"].items())]
    seeds = list(_seed_lines(found))
    if seeds:
        sections.append(Section("seeds", "Several training runs", "Seeds", "", [SectionBlock(items=seeds)]))
    best = [_best(name, rows) for name, rows in found["sets"].items() if rows]
    return Document(
        title=f"asr-kd compare: {', '.join(found['runs'])}",
        kicker="compare",
        headline=Headline(f"Comparison of {len(found['runs'])} runs", [*best, _LEGEND]),
        settings=f"Normalizer: {found['normalizer']}.",
        figures=[],
        notices=[],
        sections=sections,
        key=[],
        facts=[(run, _origin(facts)) for run, facts in found["runs"].items()],
        footer="Written by asr-kd compare. This file loads nothing from elsewhere.",
    )


def terminal(found: Plain) -> RichTable:
    """The comparison for `rich` to print; fits a terminal of 80 columns."""
    page = RichTable.grid()
    page.add_row(Text(f"Normalizer: {found['normalizer']}"))
    header = ("Run", "System", "WER % [95 %]", "against the first", "Params")
    for name, rows in found["sets"].items():
        cells = [
            [row["run"], row["name"], rate_with_interval(percent(row["wer"]), row["wer_low"], row["wer_high"]),
             _difference(row), millions(row["parameters"])]
            for row in rows
        ]  # fmt: skip
        page.add_row("")
        page.add_row(Text(name, style="bold"))
        page.add_row(rich_table(header, cells, left=2))
    for line in _seed_lines(found):
        page.add_row(Text(line))
    return page


def _section(place: int, name: str, rows: Sequence[Plain]) -> Section:
    wer = [Point(_style(row), row["wer"], row["wer_low"], row["wer_high"]) for row in rows]
    sized = [
        Point(_style(row), row["wer"], row["wer_low"], row["wer_high"], row["size_bytes"] / 1e6)
        for row in rows
        if row["size_bytes"]
    ]
    figures = [Figure("Word error rate", Forest(wer), f"WER of every system on {name}", "with 95 % intervals")]
    if sized:
        chart = Scatter(sized, "megabytes of weights")
        figures.append(Figure("Size", chart, f"WER on {name} against size", "lower left is better"))
    table = ReportTable(_HEADER, [_cells(row) for row in rows], left=2)
    return Section(f"set{place}", name, name, "", [SectionBlock(figures=figures, tables=[table])])


def _style(row: Plain) -> SystemStyle:
    """A system's colour shows its role; its name includes the run."""
    return style_of_role(f"{row['run']} · {row['name']}", row["role"])


def _cells(row: Plain) -> list[Cell]:
    difference = row.get("difference")
    return [
        row["run"],
        style_of_role(row["name"], row["role"]),
        percent(row["wer"]),
        interval(row["wer_low"], row["wer_high"]),
        points(difference["wer"]) if difference else "",
        interval(difference["low"], difference["high"]) if difference else "",
        percent(row["cer"]),
        millions(row["parameters"]),
        short_factor(row["real_time_factor"]),
    ]


def _difference(row: Plain) -> str:
    difference = row.get("difference")
    return rate_with_interval(points(difference["wer"]), difference["low"], difference["high"]) if difference else ""


def _best(name: str, rows: Sequence[Plain]) -> str:
    best = min(rows, key=lambda row: row["wer"])
    return f"On {name}, {best['name']} of {best['run']} has the lowest WER: {percent(best['wer'])} %."


def _seed_lines(found: Plain) -> Iterator[str]:
    for key, rows in found.get("seeds", {}).items():
        for row in rows:
            rates = ", ".join(percent(rate) for rate in row["rates"])
            mean = f"{percent(row['mean'])} % {interval(row['low'], row['high'])}"
            yield f"{row['set']}, {key}: mean {mean} of runs with {rates}"


def _origin(facts: Plain) -> str:
    known = [facts["recipe"], facts["date"], facts["command"], facts["git_commit"]]
    seeds = f"seed {', '.join(map(str, facts['seeds']))}" if facts["seeds"] else None
    return " · ".join(str(fact) for fact in [*known, seeds] if fact)
