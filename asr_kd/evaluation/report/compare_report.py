"""A comparison of runs as a report: for the terminal, as Markdown, and as a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table as RichTable
from rich.text import Text

from asr_kd.evaluation.cells import interval, millions, percent, points, rate_with_interval, short_factor
from asr_kd.evaluation.report.document import (
    Columns,
    CurveChart,
    Document,
    Figure,
    Plain,
    Point,
    RowChart,
    Section,
    SectionBlock,
    style_of_role,
    table,
)
from asr_kd.evaluation.report.page import render
from asr_kd.evaluation.report.text_renderers import markdown, rich_table, stacked
from asr_kd.files import register_files, write_json, write_text


def _interval_of(difference: Plain | None) -> str:
    return interval(difference["low"], difference["high"]) if difference else ""


def _change(difference: Plain | None) -> str:
    """A difference with its interval; empty for a run that there is nothing to compare with."""
    if not difference:
        return ""
    return rate_with_interval(points(difference["wer"]), difference["low"], difference["high"])


_COLUMNS: Columns = (
    ("Run", "run", str),
    ("System", "", lambda row: style_of_role(row["name"], row["role"])),
    ("WER %", "wer", percent),
    ("95 % interval", "", lambda row: interval(row["wer_low"], row["wer_high"])),
    ("against the first", "", lambda row: points(row["difference"]["wer"]) if row.get("difference") else ""),
    ("95 % interval", "", lambda row: _interval_of(row.get("difference"))),
    ("CER %", "cer", percent),
    ("Parameters", "parameters", millions),
    ("RTF", "real_time_factor", short_factor),
)
_NARROW: Columns = (
    ("Run", "run", str),
    ("System", "name", str),
    ("WER % [95 %]", "", lambda row: rate_with_interval(percent(row["wer"]), row["wer_low"], row["wer_high"])),
    ("against the first", "", lambda row: _change(row.get("difference"))),
    ("Params", "parameters", millions),
)
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
        sections.append(Section("seeds", "Several training runs", "Seeds", [SectionBlock(items=seeds)]))
    return Document(
        title=f"asr-kd compare: {', '.join(found['runs'])}",
        kicker="compare",
        headline=f"Comparison of {len(found['runs'])} runs",
        lead=[*(_best(name, rows) for name, rows in found["sets"].items() if rows), _LEGEND],
        settings=f"Normalizer: {found['normalizer']}.",
        sections=sections,
        facts=[(run, _origin(facts)) for run, facts in found["runs"].items()],
        footer="Written by asr-kd compare. This file loads nothing from elsewhere.",
    )


def terminal(found: Plain) -> RichTable:
    """The comparison for `rich` to print; fits a terminal of 80 columns."""
    parts: list[str | Text | RichTable] = [f"Normalizer: {found['normalizer']}"]
    for name, rows in found["sets"].items():
        parts += ["", Text(name, style="bold"), rich_table(table(_NARROW, rows, left=2))]
    return stacked([*parts, *_seed_lines(found)])


def _section(place: int, name: str, rows: Sequence[Plain]) -> Section:
    """A system's colour shows its role; its name on a chart includes the run."""
    points = [
        Point(style_of_role(f"{row['run']} · {row['name']}", row["role"]), row["wer"], row["wer_low"], row["wer_high"],
              row["size_bytes"] / 1e6 if row["size_bytes"] else None)
        for row in rows
    ]  # fmt: skip
    chart = RowChart([(point.style.name, [point]) for point in points], of_systems=True)
    figures = [Figure("Word error rate", chart, f"WER of every system on {name}", "with 95 % intervals")]
    sized = [[point] for point in points if point.x]
    if sized:
        by_size = CurveChart(sized, "megabytes of weights", logarithm=True)
        figures.append(Figure("Size", by_size, f"WER on {name} against size", "lower left is better"))
    return Section(f"set{place}", name, name, [SectionBlock(tables=[table(_COLUMNS, rows, left=2)])], figures)


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
