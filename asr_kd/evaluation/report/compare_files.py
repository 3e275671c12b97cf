"""A comparison of runs as something to read: for the terminal, as Markdown, as a page. Works on its plain data."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table as TerminalTable
from rich.text import Text

from asr_kd.evaluation.cells import UNKNOWN, escape, interval, millions, percent, pipe_table
from asr_kd.evaluation.report.blocks import COLOURS, SHAPES, Block, Figure, Section, Table, system_cell
from asr_kd.evaluation.report.charts import Look, Point, against, forest
from asr_kd.evaluation.report.main_systems import Headline
from asr_kd.evaluation.report.sections import signed
from asr_kd.evaluation.report.templates import render
from asr_kd.files import write_json, write_text

Plain = Mapping[str, Any]

_HEADER = (
    "Run",
    "System",
    "WER %",
    "95 % interval",
    "against the first",
    "95 % interval",
    "CER %",
    "Parameters",
    "RTF",
)
_LEGEND = (
    "Against the first: WER minus that of the same system in the first run that has it, in points; its interval is "
    "paired, drawn from the same speakers (or utterances) for both."
)


def write_comparison(found: Plain, folder: Path) -> None:
    """Write compare.json, compare.md and compare.html.

    Raises:
        AsrKdError: the folder cannot be written or the disk is full.
    """
    write_text(folder / "compare.md", markdown(found))
    write_text(folder / "compare.html", page(found))
    write_json(folder / "compare.json", found)


def markdown(found: Plain) -> str:
    """The comparison in Markdown."""
    parts = ["# Runs side by side", f"Normalizer: {found['normalizer']}."]
    for name, rows in found["sets"].items():
        parts += [f"## {escape(name)}", pipe_table(_HEADER, [_cells(row) for row in rows], left=2)]
    parts += [_LEGEND, *_seeds_markdown(found)]
    runs = [f"- {escape(run)}: {escape(_origin(facts))}" for run, facts in found["runs"].items()]
    return "\n\n".join([*parts, "## Runs", "\n".join(runs)]) + "\n"


def terminal(found: Plain) -> TerminalTable:
    """The comparison for `rich` to print; fits a terminal of 80 columns."""
    page = TerminalTable.grid()
    page.add_row(Text(f"Normalizer: {found['normalizer']}"))
    for name, rows in found["sets"].items():
        table = TerminalTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        table.add_column("Run", overflow="fold")
        table.add_column("System", overflow="fold")
        for heading in ("WER % [95 %]", "against the first", "Params"):
            table.add_column(heading, justify="right")
        for row in rows:
            cells = (row["run"], row["name"], _rate(row), _difference(row), millions(row["parameters"]))
            table.add_row(*(Text(cell) for cell in cells))
        page.add_row("")
        page.add_row(Text(name, style="bold"))
        page.add_row(table)
    for line in _seed_lines(found):
        page.add_row(Text(line))
    return page


def page(found: Plain) -> str:
    """The comparison as one HTML file that loads nothing."""
    sections = [_section(place, name, rows) for place, (name, rows) in enumerate(found["sets"].items())]
    seeds = [Block(text=line) for line in _seed_lines(found)]
    if seeds:
        sections.append(Section("seeds", "Trained again", "Seeds", "", seeds))
    best = [_best(name, rows) for name, rows in found["sets"].items() if rows]
    return render(
        "page.html",
        title=f"asr-kd compare: {', '.join(found['runs'])}",
        kicker="compare",
        headline=Headline(f"{len(found['runs'])} runs side by side", [*best, _LEGEND]),
        numbers=[],
        notices=[],
        sections=sections,
        key=[],
        browser=None,
        facts=[("Normalizer", found["normalizer"]), *((run, _origin(facts)) for run, facts in found["runs"].items())],
        footer="Written by asr-kd compare. This file loads nothing from elsewhere.",
    )


def _section(place: int, name: str, rows: Sequence[Plain]) -> Section:
    points = [Point(_look(row), row["wer"], row["wer_low"], row["wer_high"]) for row in rows]
    sized = [
        Point(_look(row), row["wer"], row["wer_low"], row["wer_high"], row["size_bytes"] / 1e6)
        for row in rows
        if row["size_bytes"]
    ]
    figures = [Figure("Word error rate", forest(points, f"WER of every system on {name}"), "with 95 % intervals")]
    if sized:
        picture = against(sized, "megabytes of weights", f"WER on {name} against size")
        figures.append(Figure("Size", picture, "lower left is better"))
    cells: list[list[str | Markup]] = [
        [row["run"], system_cell(Look(row["name"], _look(row).kind, _look(row).shape)), *_cells(row)[2:]]
        for row in rows
    ]
    return Section(f"set{place}", name, name, "", [Block(figures=figures, tables=[Table(_HEADER, cells, left=2)])])


def _look(row: Plain) -> Look:
    """A system's colour says its role; its name says the run."""
    name = f"{row['run']} · {row['name']}"
    return Look(name, COLOURS.get(row["role"], "c-7"), SHAPES.get(row["role"], "diamond"))


def _cells(row: Plain) -> list[str]:
    difference = row.get("difference")
    return [
        row["run"],
        row["name"],
        percent(row["wer"]),
        interval(row["wer_low"], row["wer_high"]),
        signed(difference["wer"]) if difference else "",
        interval(difference["low"], difference["high"]) if difference else "",
        percent(row["cer"]),
        millions(row["parameters"]),
        UNKNOWN if row["real_time_factor"] is None else f"{row['real_time_factor']:.2g}",
    ]


def _rate(row: Plain) -> str:
    low, high = row["wer_low"], row["wer_high"]
    return percent(row["wer"]) + ("" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def _difference(row: Plain) -> str:
    difference = row.get("difference")
    if not difference:
        return ""
    low, high = difference["low"], difference["high"]
    return signed(difference["wer"]) + ("" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def _best(name: str, rows: Sequence[Plain]) -> str:
    best = min(rows, key=lambda row: row["wer"])
    return f"On {name}, {best['name']} of {best['run']} makes the fewest errors: {percent(best['wer'])} %."


def _seed_lines(found: Plain) -> Iterator[str]:
    for key, rows in found.get("seeds", {}).items():
        for row in rows:
            rates = ", ".join(percent(rate) for rate in row["rates"])
            mean = f"{percent(row['mean'])} % {interval(row['low'], row['high'])}"
            yield f"{row['set']}, {key}: mean {mean} of runs with {rates}"


def _seeds_markdown(found: Plain) -> list[str]:
    lines = [f"- {escape(line)}" for line in _seed_lines(found)]
    return ["## Seeds", "\n".join(lines)] if lines else []


def _origin(facts: Plain) -> str:
    known = [facts["recipe"], facts["date"], facts["command"], facts["git_commit"]]
    seeds = f"seed {', '.join(map(str, facts['seeds']))}" if facts["seeds"] else None
    return " · ".join(str(fact) for fact in [*known, seeds] if fact)
