"""The report as data: sections of text, tables and charts. One renderer each writes it as HTML, Markdown and LaTeX."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


Styles = Mapping[str, SystemStyle]
"""By the systems' keys."""

Cell = str | SystemStyle


@dataclass(frozen=True)
class MainSystems:
    """The main test set, and the keys of the systems that the headline compares on it; empty without a test set."""

    test_set: str = ""
    student: str = ""
    """The student under test; where there is none, the only system."""
    baseline: str | None = None
    teacher: str | None = None

    @property
    def keys(self) -> list[str]:
        """Teacher, baseline and student, as far as there are any."""
        return [key for key in (self.teacher, self.baseline, self.student) if key]


@dataclass(frozen=True)
class Point:
    """A system's WER with its interval, fractions, and its value on the other axis of a chart."""

    style: SystemStyle
    wer: float
    low: float | None
    high: float | None
    cost: float | None = None
    note: str = ""
    """Why there is no cost; such a point is drawn at the right edge."""

    @property
    def reach(self) -> tuple[float, float]:
        """From the lower end of the interval to the upper."""
        return (self.wer if self.low is None else self.low), (self.wer if self.high is None else self.high)


@dataclass(frozen=True)
class Forest:
    """Each system's WER with its interval, one below the other."""

    points: Sequence[Point]


@dataclass(frozen=True)
class Scatter:
    """WER over a cost; the lower left is better. Costs that are not above 0 need `logarithm` off."""

    points: Sequence[Point]
    axis: str
    logarithm: bool = True


@dataclass(frozen=True)
class Curves:
    """A rate after each epoch of each system's training: (style, [(epoch, rate)])."""

    series: Sequence[tuple[SystemStyle, Sequence[tuple[float, float]]]]


@dataclass(frozen=True)
class Steps:
    """A rate at each of a few settings, such as chunk sizes, a line for each system; settings stand at equal steps."""

    series: Sequence[tuple[SystemStyle, Mapping[int, float]]]
    axis: str


@dataclass(frozen=True)
class Dumbbells:
    """Each speaker's WER under each system: speaker → system's key → rate, in the order given."""

    rates: Mapping[str, Mapping[str, float]]
    styles: Styles


Chart = Forest | Scatter | Curves | Steps | Dumbbells


@dataclass(frozen=True)
class Figure:
    """A chart with its title, the text for screen readers, and a note on how to read it."""

    title: str
    chart: Chart
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


Columns = Sequence[tuple[Cell, Callable[..., Cell]]]
"""Heading of each column, and the function that makes its cell of the values of a row."""


def table(columns: Columns, rows: Iterable[Sequence[Any]], **options: Any) -> ReportTable:
    """A table with a row for each tuple of values; `options` are further fields of `ReportTable`."""
    header = [heading for heading, _ in columns]
    return ReportTable(header, [[show(*values) for _, show in columns] for values in rows], **options)


@dataclass(frozen=True)
class SectionBlock:
    """Text, figures, tables (below each other or side by side) and a list; folded away in the page with a `fold`."""

    title: str = ""
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[ReportTable] = ()
    items: Sequence[str] = ()
    side_by_side: bool = False
    fold: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    id: str
    title: str
    short: str
    """In the navigation."""
    intro: str = ""
    blocks: Sequence[SectionBlock] = ()
    key: bool = False
    """Whether its charts need the list of systems with their colours."""


def optional_section(
    id: str, title: str, short: str, intro: str, blocks: Sequence[SectionBlock], key: bool = False
) -> Section | None:
    """A section of these blocks; None without any."""
    return Section(id, title, short, intro, blocks, key) if blocks else None


@dataclass(frozen=True)
class Headline:
    """The main finding, and sentences that explain it."""

    title: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class KeyFigure:
    """A figure shown large below the headline."""

    name: Cell
    value: str
    unit: str
    under: str


@dataclass(frozen=True)
class Notice:
    """A remark that readers must see; a warning is set off."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    kicker: str
    """Recipe and date, above the headline."""
    headline: Headline
    settings: str
    """Decoding and normalizer, below the headline."""
    figures: Sequence[KeyFigure]
    notices: Sequence[Notice]
    sections: Sequence[Section]
    key: Sequence[SystemStyle]
    facts: Sequence[tuple[str, str]]
    """Where the numbers come from: name, value."""
    footer: str


def styles_of(models: Mapping[str, Mapping[str, Any]]) -> dict[str, SystemStyle]:
    """Style of every system, by its key."""
    found: dict[str, SystemStyle] = {}
    further = 0
    for key, model in models.items():
        if model["role"] in _COLOURS:
            found[key] = style_of_role(str(model["name"]), model["role"])
        else:
            found[key] = SystemStyle(str(model["name"]), f"c-{3 + further % _FURTHER}", "diamond")
            further += 1
    return found


def style_of_role(name: str, role: str) -> SystemStyle:
    """Style of a system by its role alone."""
    return SystemStyle(name, _COLOURS.get(role, "c-7"), _SHAPES.get(role, "diamond"))


def heat(values: Sequence[Sequence[float | None]]) -> list[list[int]]:
    """Shade of each value among all of them, 1 (lowest) to 6; 0 where there is none."""
    there = [value for row in values for value in row if value is not None]
    low, high = min(there, default=0.0), max(there, default=0.0)
    span = (high - low) or 1.0
    return [[0 if value is None else 1 + round(5 * (value - low) / span) for value in row] for row in values]
