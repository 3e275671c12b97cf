"""What sections of the page are made of. Knows neither results nor how anything looks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from markupsafe import Markup

from asr_kd.evaluation.report.charts import Look
from asr_kd.evaluation.report.svg import mark, markup

COLOURS = {"teacher": "c-teacher", "student_hard": "c-hard", "student_kd": "c-kd"}
"""Role → class of its colour; further systems take the rest in turn."""
SHAPES = {"teacher": "square", "student_hard": "ring", "student_kd": "dot"}
_FURTHER = 5
"""Colours beyond those of the roles, c-3 to c-7."""


@dataclass(frozen=True)
class Figure:
    """A picture with its title and how to read it."""

    title: str
    picture: Markup
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first `left` columns are text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Markup]]
    caption: str = ""
    left: int = 1
    kind: str = ""
    heat: Sequence[Sequence[int]] = ()
    """How warm each cell is, 0 to 6; empty colours nothing."""


@dataclass(frozen=True)
class Block:
    """A row of figures, tables below each other (or side by side), words; folded away where it has a `fold`."""

    title: str = ""
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    side_by_side: bool = False
    fold: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    short: str
    """In the navigation."""
    intro: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)
    key: bool = False
    """Whether it needs to be said which colour is which system."""


def looks(models: dict[str, dict[str, str]]) -> dict[str, Look]:
    """Every system's colour and shape, by its key: the same wherever it appears."""
    found: dict[str, Look] = {}
    further = 0
    for key, model in models.items():
        role = model["role"]
        if role in COLOURS:
            found[key] = Look(str(model["name"]), COLOURS[role], SHAPES[role])
        else:
            found[key] = Look(str(model["name"]), f"c-{3 + further % _FURTHER}", "diamond")
            further += 1
    return found


def system_cell(look: Look) -> Markup:
    """A system's name behind its mark."""
    picture = Element("svg", {"viewBox": "0 0 12 12", "aria-hidden": "true"})
    mark(picture, 6, 6, look.shape, look.kind)
    return Markup('<span class="sys {}">{}{}</span>').format(look.kind, markup(picture), look.name)


def heat(values: Sequence[Sequence[float | None]]) -> list[list[int]]:
    """How warm each value is among all of them, 1 (lowest) to 6; 0 where there is none."""
    there = [value for row in values for value in row if value is not None]
    low, high = min(there, default=0.0), max(there, default=0.0)
    span = (high - low) or 1.0
    return [[0 if value is None else 1 + round(5 * (value - low) / span) for value in row] for row in values]
