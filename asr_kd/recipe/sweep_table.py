"""The results of a sweep as a Markdown table and as a chart.

WER is a fraction inside and a percentage where it is printed; seeds of one row are one line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from asr_kd.evaluation.cells import UNKNOWN, interval, pipe_table, plain
from asr_kd.evaluation.report.charts import add, line, linear, mark, markup, padded, picture, ticks, write
from asr_kd.files import register_files, write_text
from asr_kd.recipe.sweep import ROWS, newest, read_rows
from asr_kd.recipe.sweep_grid import PlannedRow
from asr_kd.scoring.significance import GapRecovered, bootstrap_difference, gap_recovered

STYLE = """
text{font:11px system-ui,sans-serif;fill:#333}.axis{stroke:#999}.range{stroke:#4878a8;stroke-width:2}
.mark{fill:#4878a8}.teacher{stroke:#b04a4a;stroke-dasharray:4 3}
"""
LINE_HEIGHT = 22.0


@dataclass(frozen=True)
class Line:
    """One line of the table: a row with its values, over all its seeds that are there."""

    name: str
    found: Sequence[Mapping[str, Any]]
    """Results, one a seed; none when it has not run."""
    why_not: str | None

    def of_set(self, name: str) -> list[Mapping[str, Any]]:
        """Each seed's scores on a set."""
        return [result["sets"][name] for result in self.found if name in result["sets"]]


def write_tables(rows: Sequence[PlannedRow], folder: Path) -> list[Path]:
    """Write table.md and a picture a set of what `folder`/rows.jsonl holds; returns them. Nothing, before any row."""
    results = read_rows(folder / ROWS)
    if not results:
        return []
    lines = lines_of(rows, results)
    sets = sorted({name for result in results for name in result["sets"]})
    text = "".join(f"## {name}\n\n{lead(lines, name)}{table(lines, name)}\n\n" for name in sets)
    register_files(folder, ["table.md", *(f"{name}.svg" for name in sets)])
    write_text(folder / "table.md", text)
    for name in sets:
        write_text(folder / f"{name}.svg", plot(lines, name))
    return [folder / "table.md", *(folder / f"{name}.svg" for name in sets)]


def lines_of(rows: Sequence[PlannedRow], results: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The sweep's lines in its order; of several results of one row and seed the newest counts."""
    counting = newest(results).values()
    lines: dict[str, Line] = {}
    for row in rows:
        label = ", ".join([row.row, *(f"{key.rpartition('.')[2]} {plain(value)}" for key, value in row.varied.items())])
        seeds = [r for r in counting if _matches(r, row)]
        known = lines.get(label)
        together = [*(known.found if known else []), *seeds]
        lines[label] = Line(label, together, None if together else row.skip or "not run")
    return list(lines.values())


def table(lines: Sequence[Line], set_name: str) -> str:
    """Markdown: WER with its interval over speakers, difference to the first line, errors, delay, and what it took.

    Budgets are equal where passes are: thousands of passes through the student in training, several in a step of some
    objectives.
    """
    scores = ["WER % [95 %]", f"− {lines[0].name} [95 %]", "S / D / I", "CER %", "delay ms", "gap %"]
    header = ["row", "seeds", *scores, "1,000 passes"]
    return pipe_table(header, [_cells(entry, lines[0], set_name) for entry in lines], left=1)


def _cells(entry: Line, first: Line, set_name: str) -> list[str]:
    scores = entry.of_set(set_name)
    if not scores:
        return [entry.name, "0", entry.why_not or UNKNOWN, *[UNKNOWN] * 6]
    errors = [round(mean(s[kind] for s in scores), 1) for kind in ("substitutions", "deletions", "insertions")]
    rate = f"{100 * mean(s['wer'] for s in scores):.2f}"
    if len(scores) == 1:
        rate += f" {interval(scores[0]['wer_low_speakers'], scores[0]['wer_high_speakers'])}"
    else:
        rate += f" ({min(100 * s['wer'] for s in scores):.2f}–{max(100 * s['wer'] for s in scores):.2f})"
    return [
        entry.name,
        str(len(scores)),
        rate,
        _difference(scores, first.of_set(set_name)) if entry is not first else UNKNOWN,
        " / ".join(f"{count:g}" for count in errors),
        f"{100 * mean(s['cer'] for s in scores):.2f}",
        _delay(scores),
        _gap(scores, first.of_set(set_name)) if entry is not first else UNKNOWN,
        f"{mean(result['passes'] for result in entry.found) / 1000:.1f}",
    ]


def _difference(scores: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> str:
    """Points of WER more or less than the first line, with the paired interval over speakers."""
    speakers = _speakers([*scores, *base])
    if speakers is None or not base:
        return UNKNOWN
    ours, theirs = ([mean(column) for column in zip(*_errors(each, speakers), strict=True)] for each in (scores, base))
    found = bootstrap_difference(ours, theirs, _words(scores[0], speakers))
    ends = interval(*found.interval) if found.interval is not None else ""
    return f"{100 * found.value:+.2f} {ends}"


def _speakers(scores: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The speakers that all have; None when they are not the same everywhere."""
    each = {frozenset(s.get("by_speaker") or {}) for s in scores}
    return sorted(next(iter(each))) if len(each) == 1 and frozenset() not in each else None


def _errors(scores: Sequence[Mapping[str, Any]], speakers: Sequence[str]) -> list[list[int]]:
    return [[s["by_speaker"][name]["errors"] for name in speakers] for s in scores]


def _words(scores: Mapping[str, Any], speakers: Sequence[str]) -> list[int]:
    return [scores["by_speaker"][name]["words"] for name in speakers]


def _delay(scores: Sequence[Mapping[str, Any]]) -> str:
    found = [median for s in scores if (median := delay_ms(s)) is not None]
    return f"{mean(found):.0f}" if found else UNKNOWN


def delay_ms(scores: Mapping[str, Any]) -> float | None:
    """The median emission delay behind the teacher's alignment."""
    delay = scores.get("delay") or {}
    tokens = (delay.get("emission") or {}).get("tokens") or {}
    value = tokens.get("median_ms")
    return float(value) if value is not None else None


def _gap(scores: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> str:
    """The share of the gap to the teacher that is closed, over speakers (and seeds)."""
    found = _recovered(scores, base)
    if found is None:
        return UNKNOWN
    if found.value is None:
        return "undefined"
    ends = found.interval
    return f"{100 * found.value:.0f}" + (f" [{100 * ends.low:.0f}, {100 * ends.high:.0f}]" if ends is not None else "")


def _recovered(scores: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]) -> GapRecovered | None:
    speakers = _speakers([*scores, *base])
    teacher = next((s["teacher_errors"] for s in [*scores, *base] if s.get("teacher_errors")), None)
    if speakers is None or teacher is None or not base or set(teacher) != set(speakers):
        return None
    errors = [teacher[name] for name in speakers]
    return gap_recovered(_errors(base, speakers), _errors(scores, speakers), errors, _words(base[0], speakers))


def lead(lines: Sequence[Line], set_name: str) -> str:
    """What there is to recover, in words: the teacher against the first line; nothing while one of them is missing."""
    base = lines[0].of_set(set_name)
    found = _recovered(base, base)
    if found is None or found.gap_interval is None:
        return ""
    teacher = next(s["teacher_wer"] for s in base if "teacher_wer" in s)
    ends = interval(*found.gap_interval)
    return (
        f"Teacher {100 * teacher:.2f} %, {lines[0].name} {100 * mean(s['wer'] for s in base):.2f} %: "
        f"a lead of {100 * found.gap:.2f} points {ends} (paired, over speakers).\n\n"
    )


def plot(lines: Sequence[Line], set_name: str) -> str:
    """An SVG file: a line a row with its WER and interval over speakers, the teacher's beside them."""
    shown = [(entry, entry.of_set(set_name)) for entry in lines]
    values = [v for _, scores in shown for s in scores for v in _ends(s)]
    teachers = [s["teacher_wer"] for _, scores in shown for s in scores if "teacher_wer" in s]
    height, width, left = LINE_HEIGHT * len(lines) + 44, 720.0, 300.0
    root = picture(height, f"WER on {set_name} of each row of the sweep", width)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    add(root, "style", STYLE)
    domain = padded([100 * v for v in [*values, *teachers]] or [0.0, 100.0])
    x = linear(domain, (left, width - 70))
    bottom = height - 30
    for value in ticks(*domain):
        line(root, (x(value), 8), (x(value), bottom), "axis")
        write(root, x(value), bottom + 16, f"{value:g} %", anchor="middle")
    if teachers:
        line(root, (x(100 * teachers[0]), 8), (x(100 * teachers[0]), bottom), "teacher")
    for number, (entry, scores) in enumerate(shown):
        y = 18 + LINE_HEIGHT * number
        write(root, left - 12, y + 4, entry.name if scores else f"{entry.name}: {entry.why_not}", anchor="end")
        for s in scores:
            low, high = (100 * v for v in _ends(s))
            line(root, (x(low), y), (x(high), y), "range")
            mark(root, x(100 * s["wer"]), y, "dot", "", f"{entry.name}: {100 * s['wer']:.2f} %")
        delays = [delay for s in scores if (delay := delay_ms(s)) is not None]
        if delays:
            write(root, width - 60, y + 4, f"{mean(delays):.0f} ms")
    return str(markup(root))


def _ends(scores: Mapping[str, Any]) -> tuple[float, float]:
    low, high = scores.get("wer_low_speakers"), scores.get("wer_high_speakers")
    return (scores["wer"], scores["wer"]) if low is None or high is None else (low, high)


def _matches(result: Mapping[str, Any], row: PlannedRow) -> bool:
    same = result["row"] == row.row and dict(result["varied"]) == dict(row.varied)
    return same and (row.seed is None or result["seed"] == row.seed)
