"""Draw the charts of a report as static SVG.

Text and attributes are escaped by ElementTree. Colours are classes of the page's style sheet, so that a chart follows
the reader's light or dark scheme; no style attribute, which the page's policy refuses.
"""

import math
from collections.abc import Callable, Sequence
from functools import singledispatch
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup

from asr_kd.evaluation.report.document import Chart, Curves, Dumbbells, Forest, Point, Scatter, Steps

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


def draw(chart: Chart, label: str) -> Markup:
    """A chart as SVG; `label` is its text for screen readers."""
    return markup(_draw(chart, label))


@singledispatch
def _draw(chart: Any, label: str) -> Element:
    raise TypeError(f"no chart: {type(chart).__name__}")


@_draw.register
def _forest(chart: Forest, label: str) -> Element:
    points = chart.points
    top, step = 6.0, 44.0
    bottom = top + step * len(points)
    root = picture(bottom + 24, label)
    x_scale, marks = _rates(points, (8.0, WIDTH - 8.0))
    for value in marks:
        line(root, (x_scale(value), top), (x_scale(value), bottom), "grid")
        write(root, x_scale(value), bottom + 16, f"{100 * value:g} %", "tick", _anchor(x_scale(value)))
    for index, point in enumerate(points):
        y = top + step * index + 30
        write(root, 8, y - 14, _cut(point.style.name, 27), f"label {point.style.kind}")
        interval = "" if point.low is None else f"{100 * point.reach[0]:.1f} to {100 * point.reach[1]:.1f}"
        text = write(root, WIDTH - 8, y - 14, f"{100 * point.wer:.2f} %", "value", "end")
        if interval:
            add(text, "tspan", interval, "quiet", dx=7)
        _whisker(root, point, (x_scale(point.reach[0]), y), (x_scale(point.reach[1]), y))
        mark(root, x_scale(point.wer), y, point.style.shape, point.style.kind)
    return root


@_draw.register
def _scatter(chart: Scatter, label: str) -> Element:
    points, axis, logarithm = chart.points, chart.axis, chart.logarithm
    top, left, bottom, height = 14.0, 38.0, 226.0, 264.0
    known = [point for point in points if point.cost is not None and (point.cost > 0 or not logarithm)]
    edge = [point for point in points if point not in known and point.note]
    right = WIDTH - (96.0 if edge else 14.0)
    root = picture(height, label)
    y_scale, marks = _rates(points, (bottom, top))
    _rate_axis(root, y_scale, marks, left, WIDTH - 8)
    costs = [point.cost for point in known if point.cost is not None]
    low, high = (min(costs) / 1.7, max(costs) * 1.7) if logarithm else padded([*costs, 0.0], 0.15)
    x_scale = (logarithmic if logarithm else linear)((low, high), (left + 6, right))
    for value in log_ticks(low, high) if logarithm else ticks(low, high):
        line(root, (x_scale(value), bottom), (x_scale(value), bottom + 4), "axis")
        write(root, x_scale(value), bottom + 17, f"{value:g}", "tick", "middle")
    line(root, (left, bottom), (right, bottom), "axis")
    write(root, (left + right) / 2, height - 4, axis, "tick title", "middle")
    places = [x_scale(cost) for cost in costs] + [(right + WIDTH) / 2 - 4] * len(edge)
    if edge:
        write(root, (right + WIDTH) / 2 - 4, bottom + 17, edge[0].note, "tick", "middle")
    _scattered(root, [*known, *edge], places, [y_scale(point.wer) for point in [*known, *edge]], y_scale)
    return root


@_draw.register
def _curves(chart: Curves, label: str) -> Element:
    top, left, bottom, right, height = 10.0, 38.0, 206.0, WIDTH - 14.0, 244.0
    last = max(epoch for _, points in chart.series for epoch, _ in points)
    highest = min(max(rate for _, points in chart.series for _, rate in points), 1.0)
    root = picture(height, label)
    x_scale, y_scale = linear((0, last), (left, right)), linear((0, highest), (bottom, top))
    _rate_axis(root, y_scale, ticks(0, highest, 4), left, right)
    for mark_at in ticks(0, last, 5):
        write(root, x_scale(mark_at), bottom + 17, f"{mark_at:g}", "tick", "middle")
    write(root, (left + right) / 2, height - 4, "epoch", "tick title", "middle")
    for style, points in chart.series:
        placed = [(x_scale(epoch), y_scale(min(rate, highest))) for epoch, rate in points]
        polyline(root, placed, f"curve {style.kind}")
    return root


@_draw.register
def _steps(chart: Steps, label: str) -> Element:
    found, axis = chart.series, chart.axis
    top, left, bottom, right, height = 14.0, 38.0, 206.0, WIDTH - 30.0, 244.0
    settings = sorted({setting for _, rates in found for setting in rates})
    low, high = padded([rate for _, rates in found for rate in rates.values()])
    root = picture(height, label)
    x_scale, y_scale = linear((0, len(settings) - 1), (left + 24, right)), linear((low, high), (bottom, top))
    _rate_axis(root, y_scale, ticks(low, high, 4), left, right + 20)
    for place, setting in enumerate(settings):
        write(root, x_scale(place), bottom + 17, str(setting), "tick", "middle")
    write(root, (left + right) / 2, height - 4, axis, "tick title", "middle")
    for style, rates in found:
        placed = [(x_scale(settings.index(setting)), y_scale(rates[setting])) for setting in sorted(rates)]
        polyline(root, placed, f"curve {style.kind}")
        for x, y in placed:
            mark(root, x, y, style.shape, style.kind)
    return root


@_draw.register
def _dumbbells(chart: Dumbbells, label: str) -> Element:
    rates, styles = chart.rates, chart.styles
    top, left, step, right = 22.0, 88.0, 19.0, WIDTH - 12.0
    highest = max((rate for found in rates.values() for rate in found.values()), default=0.0)
    bottom = top + step * len(rates)
    root = picture(bottom + 6, label)
    x_scale = linear((0, max(highest, 0.01)), (left, right))
    for value in ticks(0, max(highest, 0.01), 4):
        line(root, (x_scale(value), top - 4), (x_scale(value), bottom), "grid")
        write(root, x_scale(value), top - 9, f"{100 * value:g} %", "tick", "middle")
    for index, (speaker, found) in enumerate(rates.items()):
        y = top + step * index + step / 2
        write(root, left - 10, y + 4, _cut(speaker, 12), "tick ink", "end")
        there = {key: found[key] for key in styles if key in found}
        line(root, (x_scale(min(there.values())), y), (x_scale(max(there.values())), y), "bar")
        for key, rate in there.items():
            hint = f"{speaker}, {styles[key].name}: {100 * rate:.1f} %"
            mark(root, x_scale(rate), y, styles[key].shape, styles[key].kind, hint)
    return root


def _scattered(root: Any, points: Sequence[Point], xs: Sequence[float], ys: Sequence[float], y_scale: Any) -> None:
    """Points with their intervals and names; points at one place stand beside each other."""
    spread_xs = [x + 7 * _twins(xs, index) for index, x in enumerate(xs)]
    labels = apart([y + 4 for y in ys], 14.0)
    for point, x, y, label_y in zip(points, spread_xs, ys, labels, strict=True):
        low, high = point.reach
        _whisker(root, point, (x, y_scale(low)), (x, y_scale(high)))
        mark(root, x, y, point.style.shape, point.style.kind)
        onwards = x < WIDTH * 0.6
        place = max([x, *(other for other in spread_xs if abs(other - x) < 16)]) if onwards else x
        kind, side = f"label small {point.style.kind}", "start" if onwards else "end"
        write(root, place + 10 if onwards else x - 10, label_y, _cut(point.style.name, 24), kind, side)


def _rate_axis(root: Element, y_scale: Scale, marks: Sequence[float], left: float, right: float) -> None:
    """Horizontal grid lines with their rates in percent."""
    for value in marks:
        line(root, (left, y_scale(value)), (right, y_scale(value)), "grid")
        write(root, left - 6, y_scale(value) + 4, f"{100 * value:g} %", "tick", "end")


def _twins(xs: Sequence[float], index: int) -> float:
    """Offset of a point that shares its place with others."""
    alike = [other for other, x in enumerate(xs) if abs(x - xs[index]) < 8]
    return alike.index(index) - (len(alike) - 1) / 2


def _whisker(root: Any, point: Point, start: tuple[float, float], end: tuple[float, float]) -> None:
    if point.low is not None:
        line(root, start, end, f"whisker {point.style.kind}")


def _rates(points: Sequence[Point], target: tuple[float, float]) -> tuple[Any, list[float]]:
    """Scale and ticks for the WERs of these points with their intervals."""
    low, high = padded([end for point in points for end in point.reach])
    marks = ticks(low, high, 4)
    return linear((low, high), target), marks


def _anchor(x: float) -> str:
    return "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
