"""Inline SVG: elements, scales and ticks.

Text and attributes are escaped by ElementTree. Colours are classes of the page's style sheet, so that a picture follows
the reader's light or dark scheme; no style attribute, which the page's policy refuses.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

WIDTH = 360.0
"""Width of every picture in its own units: about that of a phone, so that text keeps its size."""

Scale = Callable[[float], float]
"""Maps a value to a coordinate."""


def picture(height: float, label: str, width: float = WIDTH) -> Element:
    """An empty picture; `label` is its text for screen readers."""
    root = Element("svg", {"viewBox": f"0 0 {_short(width)} {_short(height)}", "role": "img", "class": "figure"})
    root.set("aria-label", label)
    return root


def add(parent: Element, tag: str, content: str = "", kind: str = "", **attributes: float | str) -> Element:
    """An element below another; `kind` is its class, underscores in names are hyphens."""
    element = SubElement(parent, tag)
    for name, value in attributes.items():
        element.set(name.replace("_", "-"), value if isinstance(value, str) else _short(value))
    if kind:
        element.set("class", kind)
    if content:
        element.text = content
    return element


def write(parent: Element, x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> Element:
    """A line of text."""
    return add(parent, "text", content, kind, x=x, y=y, text_anchor=anchor)


def line(parent: Element, start: tuple[float, float], end: tuple[float, float], kind: str) -> Element:
    """A straight line."""
    return add(parent, "line", kind=kind, x1=start[0], y1=start[1], x2=end[0], y2=end[1])


def mark(parent: Element, x: float, y: float, shape: str, kind: str, hint: str = "") -> Element:
    """A point: "square", "ring" or "dot"; shapes tell systems apart where colours do not."""
    if shape == "square":
        element = add(parent, "rect", kind=f"mark {kind}", x=x - 4.5, y=y - 4.5, width=9, height=9, rx=1)
    elif shape == "diamond":
        path = f"M{_short(x)} {_short(y - 6)}l6 6l-6 6l-6 -6z"
        element = add(parent, "path", kind=f"mark {kind}", d=path)
    else:
        element = add(parent, "circle", kind=f"mark {shape} {kind}", cx=x, cy=y, r=5 if shape == "dot" else 4.5)
    if hint:
        add(element, "title", hint)
    return element


def polyline(parent: Element, points: Sequence[tuple[float, float]], kind: str) -> Element:
    """A line through points."""
    return add(parent, "polyline", kind=kind, points=" ".join(f"{_short(x)},{_short(y)}" for x, y in points))


def markup(root: Element) -> Markup:
    """The picture for a template."""
    return Markup(tostring(root, encoding="unicode"))


def linear(domain: tuple[float, float], target: tuple[float, float]) -> Scale:
    """Equal steps to equal steps."""
    low, high = domain
    span = (high - low) or 1.0
    return lambda value: target[0] + (value - low) / span * (target[1] - target[0])


def logarithmic(domain: tuple[float, float], target: tuple[float, float]) -> Scale:
    """Equal ratios to equal steps; values above 0."""
    inner = linear((math.log(domain[0]), math.log(domain[1])), target)
    return lambda value: inner(math.log(value))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    rough = (high - low) / max(count, 1) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis: the fewest kinds of them of which three lie on it."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [place for decade in decades for factor in factors if low <= (place := factor * 10.0**decade) <= high]
        if len(found) > 2:
            break
    return found


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """A domain that holds all values with some room, not below 0 where none is."""
    low, high = min(values), max(values)
    room = share * ((high - low) or abs(high) or 1.0)
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def apart(places: Sequence[float], least: float) -> list[float]:
    """The same places moved so that neighbours are at least so far apart, in their order."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + least)
    if order:
        excess = (moved[order[-1]] - places[order[-1]]) / 2  # half of the push back, so that all share it
        moved = [place - excess for place in moved]
    return moved


def _short(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
