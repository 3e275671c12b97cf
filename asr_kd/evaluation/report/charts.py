"""Draw the charts of a report as static SVG.

Text and attributes are escaped by ElementTree. Colours are classes of the page's style sheet, so that a chart follows
the reader's light or dark scheme; no style attribute, which the page's policy refuses.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from asr_kd.evaluation.report.document import CurveChart, Point, RowChart

WIDTH = 360.0
"""Width of every picture in its own units: about that of a phone, so that text keeps its size."""

MARKED_POINTS = 12
"""Points of a curve up to which each is marked."""

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
    """A point: "square", "ring" or "dot"; shapes distinguish systems where colours do not."""
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


def draw(chart: RowChart | CurveChart, label: str) -> Markup:
    """A chart as SVG; `label` is its text for screen readers."""
    return markup(_row_chart(chart, label) if isinstance(chart, RowChart) else _curve_chart(chart, label))


def _row_chart(chart: RowChart, label: str) -> Element:
    """Systems have their name and rate above their row, speakers their label on the left and rates as hints."""
    named = chart.of_systems
    top, step, left = (6.0, 44.0, 8.0) if named else (22.0, 19.0, 88.0)
    bottom = top + step * len(chart.rows)
    root = picture(bottom + (24 if named else 6), label)
    ends = [end for _, points in chart.rows for point in points for end in point.reach]
    domain = padded(ends) if named else (0.0, max(*ends, 0.01))
    x_scale = linear(domain, (left, WIDTH - 12))
    for value in ticks(*domain, 4):
        x = x_scale(value)
        line(root, (x, top), (x, bottom), "grid")
        anchor = "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"
        write(root, x, bottom + 16 if named else top - 9, f"{100 * value:g} %", "tick", anchor)
    for index, (title, points) in enumerate(chart.rows):
        y = top + step * index + (30 if named else step / 2)
        places = [x_scale(end) for point in points for end in point.reach]
        if named:
            write(root, 8, y - 14, _cut(title, 27), f"label {points[0].style.kind}")
            text = write(root, WIDTH - 8, y - 14, f"{100 * points[0].wer:.2f} %", "value", "end")
            if points[0].low is not None:
                low, high = points[0].reach
                add(text, "tspan", f"{100 * low:.1f} to {100 * high:.1f}", "quiet", dx=7)
                line(root, (places[0], y), (places[1], y), f"whisker {points[0].style.kind}")
        else:
            write(root, left - 10, y + 4, _cut(title, 12), "tick ink", "end")
            line(root, (min(places), y), (max(places), y), "bar")
        for point in points:
            hint = f"{title}, {point.style.name}: {100 * point.wer:.1f} %"
            mark(root, x_scale(point.wer), y, point.style.shape, point.style.kind, "" if named else hint)
    return root


def _curve_chart(chart: CurveChart, label: str) -> Element:
    top, left, bottom, height = 14.0, 38.0, 226.0, 264.0
    points = [point for curve in chart.curves for point in curve]
    known = [point.x for point in points if point.x is not None and (point.x > 0 or not chart.logarithm)]
    edge = bool(chart.edge) and any(point.x is None for point in points)
    right = WIDTH - (96.0 if edge else 14.0)
    ends = [end for point in points for end in point.reach]
    rates = (0.0, max(*ends, 0.01)) if chart.from_zero else padded(ends)
    low, high = (min(known) / 1.7, max(known) * 1.7) if chart.logarithm else padded([*known, 0.0], 0.15)
    x_scale = (logarithmic if chart.logarithm else linear)((low, high), (left + 6, right))
    y_scale = linear(rates, (bottom, top))
    root = picture(height, label)
    for value in ticks(*rates, 4):
        line(root, (left, y_scale(value)), (WIDTH - 8, y_scale(value)), "grid")
        write(root, left - 6, y_scale(value) + 4, f"{100 * value:g} %", "tick", "end")
    for value in chart.ticks or (log_ticks if chart.logarithm else ticks)(low, high):
        line(root, (x_scale(value), bottom), (x_scale(value), bottom + 4), "axis")
        write(root, x_scale(value), bottom + 17, f"{value:g}", "tick", "middle")
    line(root, (left, bottom), (right, bottom), "axis")
    write(root, (left + right) / 2, height - 4, chart.axis, "tick title", "middle")
    edge_x = (right + WIDTH) / 2 - 4
    if edge:
        write(root, edge_x, bottom + 17, chart.edge, "tick", "middle")
    named: list[tuple[Point, float, float]] = []
    for curve in chart.curves:
        placed = [
            (point, edge_x if point.x is None else x_scale(point.x), y_scale(point.wer))
            for point in curve
            if (edge if point.x is None else point.x in known)
        ]
        if len(curve) == 1:
            named += placed
            continue
        polyline(root, [(x, y) for _, x, y in placed], f"curve {curve[0].style.kind}")
        for point, x, y in placed if len(placed) <= MARKED_POINTS else ():
            mark(root, x, y, point.style.shape, point.style.kind)
    _named_points(root, named, y_scale)
    return root


def _named_points(root: Element, placed: Sequence[tuple[Point, float, float]], y_scale: Scale) -> None:
    """Points with their intervals and names; points at one place stand beside each other."""
    xs = []
    for index, (_, x, _) in enumerate(placed):
        twins = [other for other, (_, place, _) in enumerate(placed) if abs(place - x) < 8]
        xs.append(x + 7 * (twins.index(index) - (len(twins) - 1) / 2))
    labels = apart([y + 4 for _, _, y in placed], 14.0)
    for (point, _, y), x, label_y in zip(placed, xs, labels, strict=True):
        if point.low is not None:
            low, high = point.reach
            line(root, (x, y_scale(low)), (x, y_scale(high)), f"whisker {point.style.kind}")
        mark(root, x, y, point.style.shape, point.style.kind)
        onwards = x < WIDTH * 0.6
        place = max(other for other in xs if abs(other - x) < 16) + 10 if onwards else x - 10
        kind, anchor = f"label small {point.style.kind}", "start" if onwards else "end"
        write(root, place, label_y, _cut(point.style.name, 24), kind, anchor)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
