"""The report as data: sections of tables and charts, which `page` and `text_renderers` write."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asr_kd.evaluation.cells import UNKNOWN

Plain = Mapping[str, Any]
"""A part of results.json."""

_COLOURS = {"teacher": "c-teacher", "student_hard": "c-hard", "student_kd": "c-kd"}
"""Role → class of its colour in the page's style sheet; further systems take c-3 to c-7 in turn."""
_SHAPES = {"teacher": "square", "student_hard": "ring", "student_kd": "dot"}
_FURTHER = 5


@dataclass(frozen=True)
class SystemStyle:
    """A system in tables and charts: its name with its colour and shape, the same throughout a page."""

    name: str
    kind: str
    """Class of its colour."""
    shape: str

    def __str__(self) -> str:
        return self.name


Cell = str | SystemStyle


@dataclass(frozen=True)
class Point:
    """A system's WER with its interval, fractions, and its value on the other axis of a `CurveChart`."""

    style: SystemStyle
    wer: float
    low: float | None = None
    high: float | None = None
    x: float | None = None

    @property
    def reach(self) -> tuple[float, float]:
        """From the lower end of the interval to the upper."""
        return (self.wer if self.low is None else self.low), (self.wer if self.high is None else self.high)


@dataclass(frozen=True)
class RowChart:
    """WER from left to right, a row for each label."""

    rows: Sequence[tuple[str, Sequence[Point]]]
    of_systems: bool = False
    """A row is one system with its rate and interval; else it is a speaker, with a mark for each system."""


@dataclass(frozen=True)
class CurveChart:
    """WER over another quantity: a system is a named point with its interval, or a curve of several points.

    A point without a value stands at the right edge under the label `edge`, or is left out where that is empty.
    """

    curves: Sequence[Sequence[Point]]
    axis: str
    logarithm: bool = False
    """Leaves out values that are not above 0."""
    ticks: Sequence[float] = ()
    """Marks of the axis; round numbers where it is empty."""
    edge: str = ""
    from_zero: bool = False
    """Whether the axis of WER begins at 0."""


@dataclass(frozen=True)
class Figure:
    """A chart with its title, the text for screen readers, and a note on how to read it."""

    title: str
    chart: RowChart | CurveChart
    label: str
    note: str = ""


@dataclass(frozen=True)
class ReportTable:
    """Rows of cells; the first `left` columns are text, the others numbers."""

    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    left: int = 1
    kind: str = ""
    """Class of the page's style sheet."""
    heat: Sequence[Sequence[int]] = ()
    """Shade of each cell behind the row's first, 0 to 6; empty shades nothing."""
    note: str = ""
    """How to read it, below."""


Columns = Sequence[tuple[Cell, str, Callable[[Any], Cell]]]
"""Heading of each column, the place of its value in a row ("cost.rtf.whole"; empty: the row), and how it is written."""


SYSTEM: tuple[Cell, str, Callable[[Any], Cell]] = ("System", "style", lambda style: style)
"""The column of a system's name, its `SystemStyle`."""


def table(columns: Columns, rows: Iterable[Plain], **options: Any) -> ReportTable:
    """A table of plain data; values that are None or missing are dashes. `options` are fields of `ReportTable`."""
    return ReportTable(
        [heading for heading, _, _ in columns],
        [[_cell(row, place, show) for _, place, show in columns] for row in rows],
        **options,
    )


def _cell(row: Any, place: str, show: Callable[[Any], Cell]) -> Cell:
    for name in place.split(".") if place else ():
        row = row.get(name) if isinstance(row, Mapping) else None
    return UNKNOWN if row is None else show(row)


@dataclass(frozen=True)
class SectionBlock:
    """Text, tables (below each other or side by side) and a list; folded away in the page with a `fold`."""

    title: str = ""
    text: str = ""
    tables: Sequence[ReportTable] = ()
    items: Sequence[str] = ()
    side_by_side: bool = False
    fold: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report; left out where it has neither figures nor blocks."""

    id: str
    title: str
    short: str
    """In the navigation."""
    blocks: Sequence[SectionBlock] = ()
    figures: Sequence[Figure] = ()
    intro: str = ""


@dataclass(frozen=True)
class KeyFigure:
    """A figure shown large below the headline."""

    name: Cell
    value: str
    unit: str
    under: str


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    kicker: str
    """Recipe and date, above the headline."""
    headline: str
    """The main finding."""
    lead: Sequence[str]
    """Sentences that explain it."""
    settings: str
    """Decoding and normalizer."""
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]]
    """Where the numbers come from: name, value."""
    footer: str
    figures: Sequence[KeyFigure] = ()
    warning: str = ""
    """A notice that is set off."""
    notices: Sequence[str] = ()
    key: Sequence[SystemStyle] = ()
    """Systems with their colours, shown above charts."""


def styles_of(models: Mapping[str, Plain]) -> dict[str, SystemStyle]:
    """Style of every system, by its key."""
    further = [key for key, model in models.items() if model["role"] not in _COLOURS]
    return {
        key: SystemStyle(str(model["name"]), f"c-{3 + further.index(key) % _FURTHER}", "diamond")
        if key in further
        else style_of_role(str(model["name"]), model["role"])
        for key, model in models.items()
    }


def style_of_role(name: str, role: str) -> SystemStyle:
    """Style of a system by its role alone."""
    return SystemStyle(name, _COLOURS.get(role, "c-7"), _SHAPES.get(role, "diamond"))


def heat(values: Sequence[Sequence[float | None]]) -> list[list[int]]:
    """Shade of each value among all of them, 1 (lowest) to 6; 0 where there is none."""
    there = [value for row in values for value in row if value is not None]
    low, high = min(there, default=0.0), max(there, default=0.0)
    span = (high - low) or 1.0
    return [[0 if value is None else 1 + round(5 * (value - low) / span) for value in row] for row in values]
